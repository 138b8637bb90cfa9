"""What `./ci/label` serves: MONAI Label behind guards, with a few endpoints of its own in front."""

import os
import sys

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.utils.app import app_instance

from .guards import OwnHostAndOrigin, PlainAnswers
from .routes import router
from .told import root_cause

LOCAL = "127.0.0.1,localhost,::1"
HOSTS = [host for host in os.environ.get("LABEL_HOSTS", LOCAL).split(",") if host]


@app.exception_handler(RequestValidationError)
async def missing_or_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """In words, as every other error."""
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"detail": "; ".join(found)}, 400)


def roots() -> list[str]:
    """Of the app; none where it cannot be made, as after POST /reload of a damaged list."""
    try:
        return app_instance().roots()
    except Exception:
        return []


own = len(app.router.routes)
app.include_router(router)
app.router.routes[:] = app.router.routes[own:] + app.router.routes[:own]  # the first that fits is asked

# MONAI Label lets every page read, and its setting for that, MONAI_LABEL_CORS_ORIGINS, keeps 0.8.5 from starting.
app.user_middleware = [each for each in app.user_middleware if each.cls is not CORSMiddleware]
app.add_middleware(PlainAnswers, roots=roots)
app.add_middleware(OwnHostAndOrigin, hosts=HOSTS)

try:
    app_instance()
except (Exception, SystemExit) as error:  # before the server starts, which would bury the reason
    sys.exit(f"error: {root_cause(error)}")
