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
#include "gateway/web/web.h"
#include "schema/schemas.h"

struct web_beside {
    struct config config; // with a client_id of the page's own
    char *client_id;
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
    free(beside->client_id);
    free(beside->instance);
    free(beside->metrics);
    free(beside);
}

// The schemas are read when they are first asked for, which two threads must not do at once.
static void read_schemas(void) {
    schema_find("command.schema.json");
    for (size_t i = 0; codec_at(i) != NULL; i++)
        schema_of_commands(codec_at(i)->name);
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
