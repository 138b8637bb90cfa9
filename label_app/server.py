"""What `./ci/label` serves: MONAI Label, but web pages of other origins may not read its answers."""

from fastapi.middleware.cors import CORSMiddleware
from monailabel.app import app

# MONAI Label lets every page read, and its setting for that, MONAI_LABEL_CORS_ORIGINS, keeps 0.8.5 from starting.
app.user_middleware = [each for each in app.user_middleware if each.cls is not CORSMiddleware]
