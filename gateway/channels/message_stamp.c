// What the gateway adds to a message; see message_stamp.h.
#include "gateway/channels/message_stamp.h"

#include <string.h>

#include "gateway/config/registry.h"

void message_stamp(struct message *message, const struct message_origin *origin) {
    struct decimal received = {.mantissa = origin->received, .places = 6};
    message_set_number(message, FIELD_SERVER_TIMESTAMP, received);
    if (message_get(message, FIELD_TIMESTAMP) == NULL)
        message_set_number(message, FIELD_TIMESTAMP, received);
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
