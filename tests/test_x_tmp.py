def test_tuple(workflow, phantom_dir, tiny_weights, tmp_path):
    w=workflow("mri_seq2seq","inference.json",dataset_dir=phantom_dir,split="test",ckpt_path=tiny_weights,output_dir=tmp_path,targets=("FLAIR","T1"))
    w.run()
    assert len(list(tmp_path.rglob("*.nii.gz")))==2
    w=workflow("mri_seq2seq","inference.json",dataset_dir=phantom_dir,split="test",ckpt_path=tiny_weights,output_dir=tmp_path/"b",targets="DWI")
    w.run()
