// libmosquitto's functions and MQTT's numbers. From 2.1 on one header has both, and the other one warns.
#pragma once

#include <mosquitto.h>
#if LIBMOSQUITTO_MAJOR == 2 && LIBMOSQUITTO_MINOR == 0
#include <mqtt_protocol.h>
#endif
