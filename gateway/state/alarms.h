// Which alarms a device raises, retained for Home Assistant: those of its newest report. Telemetry does not say it, where an
// alarm that came once stays, nor do messages to whoever comes later.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "codecs/codec.h"
#include "gateway/channels/observer.h"

// Of one device. Times are microseconds since 1970. Zeroed, nothing is known.
struct alarms {
    bool known;        // a report was taken
    bool punctual;     // a report has shown that the tracker's clock is right
    uint32_t raised;   // by the newest report: a bit for each of the codec's
    uint32_t missed;   // by earlier ones, and no longer, before it could be published
    uint32_t told;     // in what was published last
    int64_t timestamp; // of the newest report: by which it is ordered
    int64_t received;  // the same, when it came
    int64_t missed_timestamp, missed_received;
    int64_t said_timestamp, said_received; // of the newest that there was something to publish of
};

// A bit for each of the codec's alarms that the report raises. Who has a battery that is nearly empty says so, whatever the
// tracker says: that does not end with the next report. battery: see battery.h.
uint32_t alarms_raised(const struct codec *codec, const struct codec_battery *battery,
                       const struct channel_report *report);

// Takes what a report raises, whose time is timestamp; an older one does not count. What was raised before and not published
// yet is kept until it was. Returns whether there is something to publish.
bool alarms_take(struct alarms *alarms, uint32_t raised, int64_t timestamp, int64_t received);
// The same of one that comes late, as alarms_are_old() says: only of the battery it says something, as that stays.
bool alarms_take_late(struct alarms *alarms, const struct codec *codec, uint32_t raised, int64_t timestamp,
                      int64_t received);

// Whether other alarms are on than in what was published last: that should not wait. After alarms_note_told() too, when what
// was published is over already.
bool alarms_are_urgent(const struct alarms *alarms);

// {"alarm.event":true,…,"server.timestamp":…,"timestamp":…}, for the caller to free: what is to be published next.
char *alarms_write(const struct alarms *alarms, const struct codec *codec);
// It was published, or is not to be.
void alarms_note_told(struct alarms *alarms);

// All but whether its clock is right.
void alarms_forget(struct alarms *alarms);

// What an earlier run has retained of its last report says whether its clock is right: it is of timestamp, and came by arrived.
// A tracker says whole seconds; else that time is when it came, as it said none.
void alarms_recall(struct alarms *alarms, int64_t timestamp, int64_t arrived);

// Whether a report comes from the tracker's memory, so that what it raises is over: it is older than hold seconds (0: ten
// minutes) and from a tracker whose clock is right, as *punctual says once a report showed it. One that is older than a month
// is rather from a clock that was set back.
bool alarms_are_old(bool *punctual, const struct channel_report *report, int64_t timestamp, int hold);
