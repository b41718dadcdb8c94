SUMMARY = "Python binding for the LMDB key-value store"
DESCRIPTION = "LMDB is a transactional store of keys and values that is mapped into memory."
HOMEPAGE = "https://github.com/jnwatson/py-lmdb/"
LICENSE = "OLDAP-2.8"
LIC_FILES_CHKSUM = "file://LICENSE;md5=153d07ef052c4a37a8fac23bc6031972"

SRC_URI[sha256sum] = "06dda0723545e14d56ac7dcd6f582d9922c2ed5e16f1c3f8d0e670a96ec2ee65"

inherit pypi python_setuptools_build_meta

# It brings LMDB along, with patches of its own that setup.py applies by `patch`. What it names for
# its build beside setuptools is for PyPy (cffi) and Windows (patch-ng).
PYPI_PACKAGE = "lmdb"

RDEPENDS:${PN} = "python3-core"
