// Fields that tell one thing together; see together.h.
#include "gateway/state/together.h"

#include <string.h>

enum thing { NOTHING, PLACE, CELL };

// What is a value of its own, such as the speed, stays until a report has it again.
static const unsigned char thing_of[FIELD_COUNT] = {
    [FIELD_CUSTOM_POSITION_SOURCE] = PLACE,
    [FIELD_POSITION_ACCURACY] = PLACE,
    [FIELD_POSITION_HDOP] = PLACE,
    [FIELD_POSITION_PDOP] = PLACE,
    [FIELD_POSITION_SOURCE] = PLACE,
    [FIELD_POSITION_VDOP] = PLACE,
    [FIELD_GSM_CELLS] = CELL, // there when a report has more than one
    [FIELD_GSM_LAC] = CELL,
    [FIELD_GSM_MCC] = CELL,
    [FIELD_GSM_MNC] = CELL,
    [FIELD_GSM_PCID] = CELL,
};

const enum field together_found[TOGETHER_FOUND_COUNT] = {FIELD_POSITION_SOURCE, FIELD_POSITION_ACCURACY};

void together_read(struct together *together, const struct channel_report *report) {
    memset(together, 0, sizeof *together);
    for (size_t i = 0; i < report->count; i++)
        together->said[report->members[i].field] = true;
    together->tells[PLACE] =
        together->said[FIELD_POSITION_LATITUDE] && together->said[FIELD_POSITION_LONGITUDE];
    together->tells[CELL] = together->said[FIELD_GSM_CELLID];
    together->any = together->tells[PLACE] || together->tells[CELL];
}

bool together_ends(const struct together *together, enum field field) {
    return together->tells[thing_of[field]] && !together->said[field];
}
