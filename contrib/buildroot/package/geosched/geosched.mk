################################################################################
#
# geosched
#
################################################################################

GEOSCHED_VERSION = 0.1.0
# This external tree lies in the sources of geosched.
GEOSCHED_SITE = $(BR2_EXTERNAL_GEOSCHED_PATH)/../..
GEOSCHED_SITE_METHOD = local
GEOSCHED_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude=/.venv --exclude=/.types --exclude=/build --exclude=/dist
GEOSCHED_LICENSE = MIT
GEOSCHED_LICENSE_FILES = LICENSE
GEOSCHED_SETUP_TYPE = setuptools

# Whoever is in this group may look at the daemon.
define GEOSCHED_USERS
	- - geosched -1 * - - - Looks at geosched
endef

define GEOSCHED_INSTALL_SCRIPTS
	$(INSTALL) -d -m 0755 $(TARGET_DIR)/etc/geosched
	$(INSTALL) -D -m 0755 $(@D)/deploy/scripts/block-apps \
		$(TARGET_DIR)/usr/lib/geosched/scripts/block-apps
endef
GEOSCHED_POST_INSTALL_TARGET_HOOKS += GEOSCHED_INSTALL_SCRIPTS

define GEOSCHED_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/deploy/init.d/geosched \
		$(TARGET_DIR)/etc/init.d/S95geosched
	$(INSTALL) -D -m 0644 $(@D)/deploy/default/geosched \
		$(TARGET_DIR)/etc/default/geosched
endef

define GEOSCHED_INSTALL_INIT_OPENRC
	$(INSTALL) -D -m 0755 $(@D)/deploy/openrc/geosched \
		$(TARGET_DIR)/etc/init.d/geosched
endef

define GEOSCHED_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/deploy/systemd/geosched.service \
		$(TARGET_DIR)/usr/lib/systemd/system/geosched.service
	$(INSTALL) -D -m 0644 $(@D)/deploy/systemd/group.conf \
		$(TARGET_DIR)/usr/lib/systemd/system/geosched.service.d/group.conf
	mkdir -p $(TARGET_DIR)/usr/lib/tmpfiles.d
	cat $(@D)/deploy/tmpfiles.d/group.conf $(@D)/deploy/tmpfiles.d/geosched.conf \
		> $(TARGET_DIR)/usr/lib/tmpfiles.d/geosched.conf
endef

$(eval $(python-package))
