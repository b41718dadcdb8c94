SUMMARY = "Runs action scripts for exact windows of time on unattended hosts"
DESCRIPTION = "A daemon that runs a script for each action of a backend, for exactly its window of \
time, through restarts, power cuts and weeks without a network."
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=45cabb6496ad681059f8d27734cca9f1"

inherit python_setuptools_build_meta externalsrc systemd update-rc.d useradd

# The checkout that this layer is part of, or another one.
EXTERNALSRC = "${GEOSCHED_SOURCES}"

# Whoever is in this group may look at the daemon.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system geosched"

# Both start nothing before there is /etc/geosched/geosched.toml.
SYSTEMD_SERVICE:${PN} = "geosched.service"
INITSCRIPT_NAME = "geosched"
INITSCRIPT_PARAMS = "defaults 95 05"

do_install:append() {
    install -d ${D}${sysconfdir}/geosched
    if ${@bb.utils.contains('DISTRO_FEATURES', 'systemd', 'true', 'false', d)}; then
        install -D -m 0644 ${S}/deploy/systemd/geosched.service ${D}${systemd_system_unitdir}/geosched.service
        install -D -m 0644 ${S}/deploy/systemd/group.conf ${D}${systemd_system_unitdir}/geosched.service.d/group.conf
        install -d ${D}${nonarch_libdir}/tmpfiles.d
        cat ${S}/deploy/tmpfiles.d/group.conf ${S}/deploy/tmpfiles.d/geosched.conf \
            > ${D}${nonarch_libdir}/tmpfiles.d/geosched.conf
    else
        install -D -m 0755 ${S}/deploy/init.d/geosched ${D}${sysconfdir}/init.d/geosched
        install -D -m 0644 ${S}/deploy/default/geosched ${D}${sysconfdir}/default/geosched
    fi
    # Of the wheel; its code looks for them here, whatever base_libdir is.
    chmod 0755 ${D}${nonarch_libdir}/geosched/scripts/block-apps
}

FILES:${PN} += "${nonarch_libdir}/geosched ${nonarch_libdir}/tmpfiles.d"
CONFFILES:${PN} = "${sysconfdir}/default/geosched"

# All of Python's own modules: which of them are needed has not been measured.
RDEPENDS:${PN} = " \
    python3-click \
    python3-lmdb \
    python3-modules \
    python3-msgspec \
    python3-pyzmq \
    python3-requests \
    python3-schedule \
    python3-setproctitle \
    python3-urllib3 \
"
RRECOMMENDS:${PN} = "python3-rich tzdata"
