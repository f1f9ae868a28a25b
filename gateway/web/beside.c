// The page beside a gateway; see beside.h.
#include "gateway/web/beside.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "codecs/codec.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/config/broker_url.h"
#include "gateway/web/web.h"
#include "schema/schemas.h"

struct web_beside {
    struct config config; // with a client_id and brokers of the page's own
    char *client_id;
    struct broker_address *brokers;
    uv_loop_t loop;
    uv_async_t news;
    uv_thread_t thread;
    struct web *web;
    bool runs;
    pthread_mutex_t lock; // of what follows
    char *instance, *metrics;
    bool stopping;
};

struct web_beside *web_beside_new(void) {
    struct web_beside *beside = must_have(calloc(1, sizeof *beside));
    pthread_mutex_init(&beside->lock, NULL);
    return beside;
}

void web_beside_free(struct web_beside *beside) {
    pthread_mutex_destroy(&beside->lock);
    for (size_t i = 0; beside->brokers != NULL && i < beside->config.mqtt.broker_count; i++)
        free(beside->brokers[i].host);
    free(beside->brokers);
    free(beside->client_id);
    free(beside->instance);
    free(beside->metrics);
    free(beside);
}

// The schemas are read when they are first asked for, which two threads must not do at once.
static void read_schemas(void) {
    schema_find("command.schema.json");
    schema_of_model(0);
    for (size_t i = 0; codec_at(i) != NULL; i++)
        schema_of_commands(codec_at(i)->name);
}

// Links of one list of brokers share what they find out of them, which two threads must not.
static void copy_brokers(struct web_beside *beside) {
    struct config *config = &beside->config;
    beside->brokers = must_have(calloc(config->mqtt.broker_count, sizeof *beside->brokers));
    for (size_t i = 0; i < config->mqtt.broker_count; i++)
        beside->brokers[i] = broker_address_copy(&config->mqtt.brokers[i]);
    config->mqtt.brokers = beside->brokers;
}

static void stop(struct web_beside *beside) {
    web_stop(beside->web);
    uv_close((uv_handle_t *)&beside->news, NULL);
    if (web_is_connecting(beside->web))
        uv_stop(&beside->loop); // on a thread, which cannot be interrupted
}

static void on_news(uv_async_t *news) {
    struct web_beside *beside = news->data;
    pthread_mutex_lock(&beside->lock);
    bool stopping = beside->stopping;
    char *instance = beside->instance, *metrics = beside->metrics;
    beside->instance = beside->metrics = NULL;
    pthread_mutex_unlock(&beside->lock);
    if (stopping)
        stop(beside);
    else if (metrics != NULL)
        web_take_own(beside->web, instance, metrics);
    free(instance);
    free(metrics);
}

static void run(void *context) {
    struct web_beside *beside = context;
    web_start(beside->web);
    uv_run(&beside->loop, UV_RUN_DEFAULT);
}

bool web_beside_start(void *context, const struct config *config) {
    struct web_beside *beside = context;
    char *reason = NULL;
    beside->config = *config;
    beside->client_id = text_format("%s-web", config->mqtt.client_id);
    beside->config.mqtt.client_id = beside->client_id;
    copy_brokers(beside);
    read_schemas();
    uv_loop_init(&beside->loop);
    beside->web = web_new(&beside->loop, &beside->config, config->web.listen, &reason);
    if (beside->web == NULL) {
        log_error("%s", reason);
        free(reason);
        uv_loop_close(&beside->loop);
        return false;
    }
    uv_async_init(&beside->loop, &beside->news, on_news);
    beside->news.data = beside;
    beside->runs = uv_thread_create(&beside->thread, run, beside) == 0;
    return beside->runs;
}

static void replace(char **place, const char *text) {
    free(*place);
    *place = must_have(strdup(text));
}

void web_beside_told(void *context, const char *instance, const char *metrics) {
    struct web_beside *beside = context;
    pthread_mutex_lock(&beside->lock);
    replace(&beside->instance, instance);
    replace(&beside->metrics, metrics);
    pthread_mutex_unlock(&beside->lock);
    uv_async_send(&beside->news);
}

bool web_beside_stop(void *context) {
    struct web_beside *beside = context;
    if (!beside->runs)
        return true;
    pthread_mutex_lock(&beside->lock);
    beside->stopping = true;
    pthread_mutex_unlock(&beside->lock);
    uv_async_send(&beside->news);
    uv_thread_join(&beside->thread);
    if (web_is_connecting(beside->web))
        return false;
    web_free(beside->web);
    uv_loop_close(&beside->loop);
    return true;
}
