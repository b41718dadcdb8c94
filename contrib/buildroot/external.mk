include $(sort $(wildcard $(BR2_EXTERNAL_GEOSCHED_PATH)/package/*/*.mk))
