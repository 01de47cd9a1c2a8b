"""Layers and image archives as files: packing, flattening, comparing.

Owns the formats (OCI image layout, Docker's `save` format, layer tars with whiteouts). Knows nothing of recipes or
caches. Called by `build` and by the layer programs. Everything here is deterministic: equal input, equal bytes.
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# OCI image specification, layer.md, "Whiteouts".
WHITEOUT = ".wh."
OPAQUE = ".wh..wh."


def write(path: Path, name: str, layers: list[Path], config: dict, epoch: int) -> None:
    """Write one archive that is an OCI layout and a `docker save` file at once, as Docker 25 and later save it.

    index.json serves skopeo, podman, containerd and capsid; manifest.json serves `docker load` of any version.
    Both name the same blobs, so the archive is no larger for it.
    """
    blobs: dict[str, Path | bytes] = {}
    descriptors, diff_ids = [], []
    for layer in layers:
        digest = sha256_of(layer.open("rb"))
        blobs[digest] = layer
        descriptors.append(descriptor(LAYER, digest, layer.stat().st_size))
        diff_ids.append(f"sha256:{sha256_of(gzip.open(layer, 'rb'))}")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    image_config = json_bytes({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": created, "created_by": f"capsid images/{name}"} for _ in layers],
    })
    config_digest = add(blobs, image_config)
    manifest = json_bytes({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config_digest, len(image_config)),
        "layers": descriptors,
    })
    manifest_digest = add(blobs, manifest)
    reference = f"{name}:latest"
    index = json_bytes({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            **descriptor(MANIFEST, manifest_digest, len(manifest)),
            "platform": {"architecture": "amd64", "os": "linux"},
            "annotations": {
                # containerd and Docker 25 prefer the full name, skopeo and podman read the reference.
                "io.containerd.image.name": f"docker.io/library/{reference}",
                "org.opencontainers.image.ref.name": reference,
            },
        }],
    })
    docker_manifest = json_bytes([{
        "Config": f"blobs/sha256/{config_digest}",
        "RepoTags": [reference],
        "Layers": [f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}" for entry in descriptors],
    }])
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(entry(folder, epoch, folder=True))
        for digest, blob in sorted(blobs.items()):
            add_file(tar, f"blobs/sha256/{digest}", blob, epoch)
        add_file(tar, "index.json", index, epoch)
        add_file(tar, "manifest.json", docker_manifest, epoch)
        add_file(tar, "oci-layout", json_bytes({"imageLayoutVersion": "1.0.0"}), epoch)


def flatten(layers: list[Path], target: Path) -> None:
    """Write the root that a stack of layers makes, lowest first, as one tar without whiteouts."""
    newest: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
    for layer in layers:
        # Members are read in another order than they lie: unpack first, gzip cannot seek.
        plain = tempfile.TemporaryFile(dir=target.parent)
        with gzip.open(layer) as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.seek(0)
        source = tarfile.open(fileobj=plain)
        upper: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        for member in source:
            name = normal(member.name)
            folder, _, base = name.rpartition("/")
            if base.startswith(OPAQUE):
                raise ValueError(f"{layer}: {name}: opaque folders are not written here, so not read either")
            if base.startswith(WHITEOUT):
                hide(newest, f"{folder}/{base.removeprefix(WHITEOUT)}".lstrip("/"))
            else:
                upper[name] = (source, member)
        newest.update(upper)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        # Hard links come after all that they may point to.
        for _, (source, member) in sorted(newest.items(), key=lambda item: (item[1][1].islnk(), item[0])):
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)


def difference(below: Path, above: Path, target: Path, epoch: int, ignore=()) -> None:
    """Write the layer that turns the root `below` into the root `above`: what is new, what changed, and whiteouts.

    `ignore` names paths (and all beneath) that are left as they are below.
    """
    with tarfile.open(below) as old, tarfile.open(above) as new:
        before = {normal(member.name): member for member in old}
        after = {normal(member.name): member for member in new}
        ignored = lambda name: any(name == path or name.startswith(f"{path}/") for path in ignore)
        changed = {name for name, member in after.items()
                   if name and not ignored(name) and not same(old, before.get(name), new, member)}
        gone = {name for name in before.keys() - after.keys() if not ignored(name)}
        for name in list(changed):  # a layer names the folders that its files are in
            while name := name.rpartition("/")[0]:
                changed.add(name)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(gone):
                folder, _, base = name.rpartition("/")
                if folder not in gone:
                    tar.addfile(entry(f"{folder}/{WHITEOUT}{base}".lstrip("/"), epoch))
            for name in sorted(changed, key=lambda name: (after[name].islnk(), name)):
                member = after[name]
                data = new.extractfile(member) if member.isreg() else None
                member.name, member.mtime = name, min(int(member.mtime), epoch)
                member.uname = member.gname = ""
                if member.islnk():
                    member.linkname = normal(member.linkname)
                member.pax_headers = {key: value for key, value in member.pax_headers.items()
                                      if key.startswith("SCHILY.xattr.")}
                tar.addfile(member, data)


def same(old: tarfile.TarFile, before, new: tarfile.TarFile, after) -> bool:
    if before is None:
        return False
    facts = lambda member: (member.type, member.mode, member.uid, member.gid, member.size, normal(member.linkname)
                            if member.islnk() else member.linkname, member.devmajor, member.devminor)
    if facts(before) != facts(after):
        return False
    if not after.isreg():
        return True
    return sha256_of(old.extractfile(before)) == sha256_of(new.extractfile(after))


def hide(members: dict, name: str) -> None:
    for other in [other for other in members if other == name or other.startswith(f"{name}/")]:
        del members[other]


def normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def descriptor(media_type: str, digest: str, size: int) -> dict:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def add(blobs: dict, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return digest


def entry(name: str, epoch: int, folder: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    info.mode = 0o755 if folder else 0o644
    info.mtime = epoch
    return info


def add_file(tar: tarfile.TarFile, name: str, content: Path | bytes, epoch: int) -> None:
    info = entry(name, epoch)
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    else:
        info.size = content.stat().st_size
        with content.open("rb") as data:
            tar.addfile(info, data)


def sha256_of(stream) -> str:
    total = hashlib.sha256()
    with stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def json_bytes(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
