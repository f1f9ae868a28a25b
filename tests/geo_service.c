// A geolocation service of a test's own; see geo_service.h.
#include "tests/geo_service.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_MAX (80 << 10)

struct geo_service {
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool silent;
    unsigned status;
    char body[BODY_MAX];
    size_t count;
    char last[GEO_QUESTION_MAX];
};

struct asking {
    char url[512];
    char body[GEO_QUESTION_MAX - 600];
    size_t length;
};

static enum MHD_Result note_query(void *context, enum MHD_ValueKind kind, const char *key,
                                  const char *value) {
    struct asking *asking = context;
    size_t length = strlen(asking->url);
    snprintf(asking->url + length, sizeof asking->url - length, "?%s=%s", key, value != NULL ? value : "");
    return MHD_YES;
}

static void add_bytes(struct asking *asking, const char *bytes, size_t length) {
    if (asking->length + length < sizeof asking->body) {
        memcpy(asking->body + asking->length, bytes, length);
        asking->length += length;
    }
}

static enum MHD_Result answer(struct geo_service *service, struct MHD_Connection *connection,
                              const struct asking *asking) {
    pthread_mutex_lock(&service->lock);
    snprintf(service->last, sizeof service->last, "%s %s", asking->url, asking->body);
    service->count++;
    while (service->silent)
        pthread_cond_wait(&service->changed, &service->lock);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(service->body), service->body, MHD_RESPMEM_MUST_COPY);
    unsigned status = service->status;
    pthread_mutex_unlock(&service->lock);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **own) {
    struct asking *asking = *own;
    if (asking == NULL) {
        *own = asking = calloc(1, sizeof *asking);
        snprintf(asking->url, sizeof asking->url, "%s", url);
        MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, note_query, asking);
        return MHD_YES;
    }
    if (*size > 0) {
        add_bytes(asking, data, *size);
        *size = 0;
        return MHD_YES;
    }
    return answer(context, connection, asking);
}

static void on_ended(void *context, struct MHD_Connection *connection, void **own,
                     enum MHD_RequestTerminationCode code) {
    free(*own);
    *own = NULL;
}

static struct geo_service *start_at(const void *address, unsigned flags, const char *certificate,
                                    const char *key) {
    struct geo_service *service = calloc(1, sizeof *service);
    const struct MHD_OptionItem tls[] = {
        {certificate != NULL ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, (void *)certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)key},
        {MHD_OPTION_END, 0, NULL}};
    pthread_mutex_init(&service->lock, NULL);
    pthread_cond_init(&service->changed, NULL);
    geo_service_say(service, 200, GEO_FOUND);
    service->daemon =
        MHD_start_daemon(flags | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, 0, NULL,
                         NULL, on_request, service, MHD_OPTION_SOCK_ADDR, address,
                         MHD_OPTION_NOTIFY_COMPLETED, on_ended, NULL, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    cr_assert(service->daemon != NULL, "the service does not start");
    return service;
}

struct geo_service *geo_service_start(const char *certificate, const char *key) {
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return start_at(&address, certificate != NULL ? MHD_USE_TLS : 0, certificate, key);
}

struct geo_service *geo_service_start_on_ipv6(void) {
    const struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    return start_at(&address, MHD_USE_IPv6, NULL, NULL);
}

void geo_service_stop(struct geo_service *service) {
    geo_service_speak(service);
    MHD_stop_daemon(service->daemon);
    free(service);
}

int geo_service_port(const struct geo_service *service) {
    return MHD_get_daemon_info(service->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

void geo_service_say(struct geo_service *service, unsigned status, const char *body) {
    pthread_mutex_lock(&service->lock);
    service->status = status;
    snprintf(service->body, sizeof service->body, "%s", body);
    pthread_mutex_unlock(&service->lock);
}

static void set_silent(struct geo_service *service, bool silent) {
    pthread_mutex_lock(&service->lock);
    service->silent = silent;
    pthread_cond_broadcast(&service->changed);
    pthread_mutex_unlock(&service->lock);
}

void geo_service_fall_silent(struct geo_service *service) {
    set_silent(service, true);
}

void geo_service_speak(struct geo_service *service) {
    set_silent(service, false);
}

size_t geo_service_count(struct geo_service *service) {
    pthread_mutex_lock(&service->lock);
    size_t count = service->count;
    pthread_mutex_unlock(&service->lock);
    return count;
}

void geo_service_last(struct geo_service *service, char question[GEO_QUESTION_MAX]) {
    pthread_mutex_lock(&service->lock);
    strcpy(question, service->last);
    pthread_mutex_unlock(&service->lock);
}
