// How full a battery is, by its voltage.
#pragma once

#include "codecs/codec.h"

// Percent, 0 to 100, at so many volts, by the points of the codec or the configuration (NULL: there are none); -1 when
// nobody knows.
int battery_percent(const struct codec_battery *points, double volts);
