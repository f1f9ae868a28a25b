// In which order `trackbus watch` shows the devices.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/fleet/fleet.h"

// By column, as they stand on the screen.
enum order {
    ORDER_HEARD,
    ORDER_IDENT,
    ORDER_NAME,
    ORDER_CONNECTION,
    ORDER_SPEED,
    ORDER_BATTERY,
    ORDER_COUNT
};

// The devices of the fleet, *count of them: heard last, connected and fastest first, but the lowest battery first. What
// is not known comes last, reversed or not. For the caller to free; NULL without devices.
const struct fleet_device **order_devices(struct fleet *fleet, enum order order, bool reversed,
                                          size_t *count);
