// What a device sees around it, Wi-Fi access points and cells, as far as a geolocation service can make something of it.
// The question to an Ichnaea-compatible service (https://ichnaea.readthedocs.io/en/latest/api/geolocate.html) is made of
// that. Access points whose network ends with "_nomap", as its owner asks not to be mapped, are never passed on.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/message.h"

#define SURROUNDINGS_POINTS_MAX 32 // further ones are left out
#define SURROUNDINGS_CELLS_MAX  16

struct surroundings {
    struct surroundings_point {
        uint8_t mac[6];
        int16_t rssi; // dBm; 0: not known
    } points[SURROUNDINGS_POINTS_MAX];
    size_t point_count;
    struct surroundings_cell {
        uint64_t cellid;
        uint32_t lac;
        uint16_t mcc, mnc;
        char radio[6]; // "gsm", "wcdma", "lte"
    } cells[SURROUNDINGS_CELLS_MAX];
    size_t cell_count;
};

// Reads them out of a message. False when there is nothing to ask about: it has coordinates, or sees nothing.
bool surroundings_of(const struct message *message, struct surroundings *surroundings);

// The same number for the same access points and cells, however strong, in whatever order; another one for another
// service.
uint64_t surroundings_key(const struct surroundings *surroundings, const char *url);

// The question, as JSON, for the caller to free.
char *surroundings_question(const struct surroundings *surroundings);
