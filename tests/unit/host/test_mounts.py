"""What a path is on, as the kernel's table of mounts has it."""

from pathlib import Path

from geosched.workers.host.mounts import _mount, mount_of

LINE = (
    rb"36 35 179:2 / /srv/with\040blank rw,noatime shared:1 master:2 - ext4 /dev/root"
    rb" rw,errors=remount-ro"
)


def test_a_line_of_the_table_is_taken_apart() -> None:
    found = _mount(LINE)
    assert (found.point, found.kind, found.device, found.source) == (
        *("/srv/with blank", "ext4"),
        *("179:2", "/dev/root"),
    )
    assert {"rw", "noatime", "errors=remount-ro"} == found.options


def test_a_path_is_on_the_mount_that_is_nearest_above_it(tmp_path: Path) -> None:
    proc = mount_of("/proc/self")
    assert proc is not None
    assert (proc.point, proc.kind) == ("/proc", "proc")
    above = mount_of(tmp_path)
    assert above is not None
    assert str(tmp_path).startswith(above.point)
