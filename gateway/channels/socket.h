// What the sockets of TCP and UDP have in common.
#pragma once

#include <uv.h>

// Lets other processes listen on the same port; before the socket is bound. 0 or an error of libuv.
int socket_share_port(const uv_handle_t *handle);

// The address that a socket has, into "ip:port" of ADDRESS_TEXT_MAX bytes. 0 or an error of libuv.
int socket_name(const uv_handle_t *handle, char *text);
