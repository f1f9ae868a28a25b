// Asking again for subscriptions; see asking_again.h.
#include "gateway/broker/asking_again.h"

#include "gateway/base/libmosquitto.h"

void asking_again_init(struct asking_again *again, uv_loop_t *loop, void (*ask)(void *context),
                       void *context) {
    *again = (struct asking_again){.soon = AGAIN_MIN, .ask = ask, .context = context};
    uv_timer_init(loop, &again->timer);
    again->timer.data = again;
}

void asking_again_begin(struct asking_again *again) {
    again->soon = AGAIN_MIN;
}

static void on_time(uv_timer_t *timer) {
    struct asking_again *again = timer->data;
    again->waits_soon = false;
    again->ask(again->context);
}

// The one that comes first counts: all are asked for then.
static void ask_within(struct asking_again *again, unsigned milliseconds) {
    if (!uv_is_active((uv_handle_t *)&again->timer) || uv_timer_get_due_in(&again->timer) > milliseconds)
        uv_timer_start(&again->timer, on_time, milliseconds, 0);
}

static void ask_soon(struct asking_again *again) {
    if (again->waits_soon)
        return;
    again->waits_soon = true;
    ask_within(again, again->soon);
    again->soon = again->soon * 2 < AGAIN_MAX ? again->soon * 2 : AGAIN_MAX;
}

static enum again again_after(int reason) {
    switch (reason) {
    case MQTT_RC_UNSPECIFIED:
    case MQTT_RC_PACKET_ID_IN_USE:
    case MQTT_RC_QUOTA_EXCEEDED:
        return AGAIN_SOON;
    case MQTT_RC_NOT_AUTHORIZED:
        return AGAIN_SLOWLY;
    default:
        return AGAIN_NEVER;
    }
}

enum again asking_again_note(struct asking_again *again, int reason) {
    enum again when = again_after(reason);
    if (when == AGAIN_SOON)
        ask_soon(again);
    else if (when == AGAIN_SLOWLY)
        ask_within(again, AGAIN_SLOW);
    return when;
}

void asking_again_end(struct asking_again *again) {
    again->waits_soon = false;
    uv_timer_stop(&again->timer);
}

void asking_again_close(struct asking_again *again) {
    uv_close((uv_handle_t *)&again->timer, NULL);
}
