// What the page knows, for those who tell of it: the API, and flespi's.
#pragma once

#include "gateway/config/config.h"
#include "gateway/fleet/fleet.h"
#include "gateway/web/captured.h"
#include "gateway/web/desk.h"
#include "gateway/web/dossier.h"
#include "gateway/web/events.h"
#include "gateway/web/gateways.h"
#include "gateway/web/history.h"
#include "gateway/web/journal.h"
#include "gateway/web/listed.h"
#include "gateway/web/login.h"
#include "gateway/web/stream.h"
#include "gateway/web/waiting.h"

// All stay the caller's.
struct api_parts {
    const struct config *config;
    struct fleet *fleet;
    struct histories *histories;
    const struct journal *log, *messages, *chunks;
    const struct captured *captured;
    const struct waiting *waiting;
    const struct listed *listed;
    struct gateways *gateways;
    struct dossiers *dossiers;
    const struct events *events;
    struct streams *streams;
    struct login *login;
    struct desk *desk;
    const struct mqtt_carrier *carrier;
};

// The history of a device, which the fleet keeps in its notes.
static inline struct history *api_history(const struct fleet_device *device) {
    return device->notes;
}
