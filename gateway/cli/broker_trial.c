// The broker, tried by `check`; see broker_trial.h.
#include "gateway/cli/broker_trial.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "gateway/base/log.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/topic.h"

#define TRIAL_TIME 5000 // milliseconds

struct trial {
    struct config config; // with a client_id of its own
    struct mqtt_subscription state;
    uv_loop_t loop;
    uv_timer_t timer;
    struct mqtt_link *link;
    char *why; // NULL: nothing is wrong
    bool ended;
};

static void on_end(uv_timer_t *timer) {
    struct trial *trial = timer->data;
    uv_close((uv_handle_t *)timer, NULL);
    mqtt_link_stop(trial->link);
    if (mqtt_link_is_connecting(trial->link))
        uv_stop(&trial->loop); // on a thread, which cannot be interrupted
}

// Takes why over. Not at once: we may have been called by the link.
static void end(struct trial *trial, char *why) {
    if (trial->ended) {
        free(why);
        return;
    }
    trial->ended = true;
    trial->why = why;
    uv_timer_start(&trial->timer, on_end, 0, 0);
}

static void on_timeout(uv_timer_t *timer) {
    end(timer->data, text_format("it has not answered within %d s", TRIAL_TIME / 1000));
}

static void on_granted(void *context, const struct mqtt_subscription *subscription, bool granted) {
    if (!granted)
        end(context, text_format("it does not let this user subscribe to %s", subscription->filter));
}

static void on_up(void *context) {
    end(context, NULL);
}

static bool on_failed(void *context, const char *why) {
    int length = (int)strlen(why);
    length -= length > 0 && why[length - 1] == '.'; // the library's sentences end with one
    end(context, text_format("%.*s", length, why));
    return true;
}

static void on_down(void *context, enum mqtt_end how) {
    end(context, text_format("it ends the connection at once"));
}

static void ignore(void *context) {
}

static void ignore_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static void ignore_received(void *context, const struct mqtt_received *received) {
}

static void ignore_line(void *context, enum log_level level, const char *text) {
}

// With the client_id and the subscription of the trial.
static void run(struct trial *trial) {
    static const struct mqtt_link_handlers handlers = {.purpose = "a trial",
                                                       .connected = ignore,
                                                       .up = on_up,
                                                       .down = on_down,
                                                       .published = ignore_published,
                                                       .received = ignore_received,
                                                       .granted = on_granted,
                                                       .failed = on_failed};
    uv_loop_init(&trial->loop);
    uv_timer_init(&trial->loop, &trial->timer);
    trial->timer.data = trial;
    trial->link = mqtt_link_new(&trial->loop, &trial->config, &trial->state, 1, MQTT_SESSION_NONE, NULL, NULL,
                                &handlers, trial);
    uv_timer_start(&trial->timer, on_timeout, TRIAL_TIME, 0);
    mqtt_link_start(trial->link);
    uv_run(&trial->loop, UV_RUN_DEFAULT);
}

char *broker_trial(const struct config *config, bool *hangs) {
    static struct trial trial; // a thread may still use it
    char *client_id = text_format("%s-check", config->mqtt.client_id);
    trial = (struct trial){.config = *config};
    trial.config.mqtt.client_id = client_id;
    trial.state.filter = text_format("%s/" TOPIC_STATE TOPIC_INSTANCES "%s", config->mqtt.topic_prefix,
                                     config->mqtt.client_id);
    log_divert(ignore_line, NULL);
    run(&trial);
    *hangs = mqtt_link_is_connecting(trial.link);
    if (*hangs)
        return trial.why;
    mqtt_link_free(trial.link);
    uv_loop_close(&trial.loop);
    log_divert(NULL, NULL);
    free(trial.state.filter);
    free(client_id);
    return trial.why;
}
