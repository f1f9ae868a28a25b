// Which alarms a device raises, retained for Home Assistant: those of its newest report. Telemetry does not say it, where an
// alarm that came once stays, nor do messages to whoever comes later.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "codecs/codec.h"
#include "gateway/channels/observer.h"

// A bit for each of the codec's alarms that the report raises. Who has a battery that is nearly empty says so, whatever the
// tracker says: that does not end with the next report. battery: see battery.h.
uint32_t alarms_raised(const struct codec *codec, const struct codec_battery *battery,
                       const struct channel_report *report);

// {"alarm.event":true,…,"server.timestamp":…,"timestamp":…}, for the caller to free. timestamp: by which the report is
// ordered, microseconds since 1970.
char *alarms_write(const struct codec *codec, uint32_t raised, int64_t timestamp, int64_t received);

// Whether a report comes from the tracker's memory, so that what it raises is over: it is older than hold seconds (0: ten
// minutes) and from a tracker whose clock is right, as *punctual says once a report showed it. One that is older than a month
// is rather from a clock that was set back.
bool alarms_are_old(bool *punctual, const struct channel_report *report, int64_t timestamp, int hold);
