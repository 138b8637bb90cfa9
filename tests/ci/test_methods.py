"""The README's table of methods."""

from __future__ import annotations

from ci.methods import README, table, updated


def test_the_readme_s_table_is_as_the_bundles_are():
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text, "run `python -m ci.methods`"


def test_a_row_per_bundle_with_the_papers_parameters():
    rows = {row.split("`")[1]: row for row in table().splitlines()[2:]}
    assert sorted(rows) == sorted(path.name for path in (README.parent / "bundles").iterdir()) and len(rows) == 9
    assert "| 155.2 M |" in rows["mri_seq2seq"] and "| 126.7 M |" in rows["mri_vq_seq2seq"]
    assert "| 123.5 M |" in rows["mri_resvit"] and "| 81.8 M |" in rows["mri_wavelet_flow"]
    assert (
        "| 11.4 M |" in rows["mri_pgan"] and "| 54.4 M |" in rows["mri_mmgan"] and "| 22.7 M |" in rows["mri_cyclegan"]
    )
