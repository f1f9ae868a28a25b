// What the gateway adds to a message; see message_stamp.h.
#include "gateway/channels/message_stamp.h"

#include <string.h>

#include "codecs/values.h"
#include "gateway/config/registry.h"

// The report's time stands if it can be one. Most codecs have judged it already; here it is judged whatever
// protocol it came by. A gateway whose own clock is not set (1970, before the network gave it the time) has
// nothing to judge the device's by: then that is the better one.
static void stamp_time(struct message *message, struct decimal received) {
    const struct message_value *time = message_get(message, FIELD_TIMESTAMP);
    char digits[DECIMAL_TEXT_MAX];
    if (time != NULL) {
        const char *fault = value_time_fault((int64_t)decimal_to_double(time->number), received.mantissa);
        if (fault == NULL)
            return;
        message_note_removed(message, FIELD_TIMESTAMP, digits, decimal_write(time->number, digits), fault);
    }
    message_set_number(message, FIELD_TIMESTAMP, received);
}

void message_stamp(struct message *message, const struct message_origin *origin) {
    struct decimal received = {.mantissa = origin->received, .places = 6};
    message_set_number(message, FIELD_SERVER_TIMESTAMP, received);
    stamp_time(message, received);
    message_set_integer(message, FIELD_PROTOCOL_ID, origin->codec->id);
    if (origin->channel_id != 0)
        message_set_integer(message, FIELD_CHANNEL_ID, origin->channel_id);
    if (origin->peer != NULL)
        message_set_text(message, FIELD_PEER, origin->peer, strlen(origin->peer));
    if (origin->device == NULL || !origin->device->known)
        return;
    message_set_integer(message, FIELD_DEVICE_ID, origin->device->id);
    message_set_text(message, FIELD_DEVICE_NAME, origin->device->name, strlen(origin->device->name));
    message_set_integer(message, FIELD_DEVICE_TYPE_ID, origin->device->type_id);
}
