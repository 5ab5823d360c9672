"""Archives whose bytes depend on nothing but their content: no clock, no user, no order of a folder.

It does not know what is packed.
"""

import datetime
import gzip
import io
import os
import subprocess
import tarfile
import zipfile

# The first moment that a zip file can name: 1980-01-01.
ZIP_EPOCH = 315532800


def epoch(root):
    """Seconds: SOURCE_DATE_EPOCH, or the time of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    log = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    return int(subprocess.run(log, check=True, capture_output=True, text=True).stdout)


def tar(entries, time):
    """The bytes of a tar of (path, content, mode, owner) entries. An entry without content is a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content, mode, owner in entries:
            info = tarfile.TarInfo(path)
            info.mtime, info.mode, info.uid, info.gid = time, mode, owner, owner
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def gz(content):
    return gzip.compress(content, 9, mtime=0)


def zipped(entries, time):
    """The bytes of a zip of (path, content, mode) entries."""
    moment = datetime.datetime.fromtimestamp(max(time, ZIP_EPOCH), datetime.timezone.utc)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content, mode in entries:
            info = zipfile.ZipInfo(path, moment.timetuple()[:6])
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, content)
    return packed.getvalue()
