// A geolocation service of a test's own, in a thread of the test's process: it answers all questions alike, counts them,
// and keeps the last one. It ends with the process.
#pragma once

#include <stddef.h>

struct geo_service;

#define GEO_QUESTION_MAX 4096 // bytes, with their NUL
#define GEO_FOUND        "{\"location\":{\"lat\":22.5431234,\"lng\":114.05795},\"accuracy\":35.0}"

// On a free port of 127.0.0.1; answers 200 and GEO_FOUND. With a certificate and its key (texts, PEM) it speaks HTTPS;
// without them (NULL) HTTP.
struct geo_service *geo_service_start(const char *certificate, const char *key);
// The same on ::1, over HTTP.
struct geo_service *geo_service_start_on_ipv6(void);
void geo_service_stop(struct geo_service *service);
int geo_service_port(const struct geo_service *service);

// From now on: this status and body.
void geo_service_say(struct geo_service *service, unsigned status, const char *body);
// Answers nobody until it speaks again; those who have asked by then are answered then.
void geo_service_fall_silent(struct geo_service *service);
void geo_service_speak(struct geo_service *service);

// Questions until now; and the last one: its path with the query, a blank, its body.
size_t geo_service_count(struct geo_service *service);
void geo_service_last(struct geo_service *service, char question[GEO_QUESTION_MAX]);
