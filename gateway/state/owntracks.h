// OwnTracks: where a device is, and what it is called, retained under OwnTracks' own prefix, as
// https://owntracks.org/booklet/tech/json describes. The user is "trackbus", the device its ident. When what is here
// is published, and which of a device's positions, others decide.
#pragma once

#include <stdint.h>

#include "codecs/codec.h"
#include "gateway/broker/bus.h"
#include "gateway/channels/observer.h"
#include "gateway/config/config.h"

struct owntracks_device {
    const char *ident, *name;
    const struct codec *codec; // or NULL
};

// The location of a report, as JSON for the caller to free; NULL when it does not say where the device is. time is when
// it was there: microseconds since 1970.
char *owntracks_location(const struct config *config, const struct owntracks_device *device,
                         const struct channel_report *report, int64_t time);

// Publishes that location (NULL: there is none any more), and the card, which says the name (of device NULL: there is
// none any more).
void owntracks_publish_location(const struct config *config, const struct bus *bus, const char *ident,
                                const char *location, enum mqtt_retain retain);
void owntracks_publish_card(const struct config *config, const struct bus *bus, const char *ident,
                            const struct owntracks_device *device, enum mqtt_retain retain);
