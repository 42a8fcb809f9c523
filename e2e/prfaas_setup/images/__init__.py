"""The project's four images, built without Docker or a registry, kept in the user's cache folder.

A base of Debian's own packages is made by mmdebstrap, the Dockerfiles of `images/` are built by buildah, each
image is started once as it will run in a pod, and lies afterwards as an OCI archive that `ctr images import`,
`kind load image-archive` and `skopeo copy` take.
"""

from __future__ import annotations

from prfaas_setup.images.build import BuiltImage, build_for_engine, ensure_images
from prfaas_setup.images.parts import PARTS, Part

__all__ = ["PARTS", "BuiltImage", "Part", "build_for_engine", "ensure_images"]
