// How full a battery is, by its voltage.
#pragma once

#include "codecs/codec.h"

// Percent, 0 to 100, of a battery of a codec's devices (NULL: no codec) at so many volts; -1 when nobody knows.
int battery_percent(const struct codec *codec, double volts);
