// The HTTP API and the page: who may ask for what, and which function answers.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/config/config.h"
#include "gateway/fleet/fleet.h"
#include "gateway/web/captured.h"
#include "gateway/web/desk.h"
#include "gateway/web/dossier.h"
#include "gateway/web/events.h"
#include "gateway/web/gateways.h"
#include "gateway/web/history.h"
#include "gateway/web/http.h"
#include "gateway/web/journal.h"
#include "gateway/web/listed.h"
#include "gateway/web/login.h"
#include "gateway/web/stream.h"
#include "gateway/web/waiting.h"

struct api;

// What it tells of; all stay the caller's.
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

struct api *api_new(const struct api_parts *parts);
void api_free(struct api *api);

// Answers a request: an http_handler.
struct http_answer api_answer(void *context, struct http_request *request);

// The history of a device, which the fleet keeps in its notes.
struct history *api_history(const struct fleet_device *device);
