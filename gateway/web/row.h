// A device as one row of the list: what the fleet knows of it, as JSON.
#pragma once

#include "gateway/fleet/fleet.h"
#include "gateway/web/text_out.h"
#include "gateway/web/waiting.h"

#define ROW_PLACE_MAX 96

// What stands in a topic for the device, behind state/gw/ and command/gw/: "devices/42", or "channels/1/IDENT" for one
// without an id. Returns place, of ROW_PLACE_MAX bytes.
char *row_place(const struct fleet_device *device, char *place);

// Writes the members of the row, without the braces.
void row_write(const struct fleet_device *device, const struct waiting *waiting, struct text_out *out);
