// IP addresses with ports, as text and as sockets know them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 64

// Reads "127.0.0.1:7700" or "[::]:7700". False, with *address untouched, when it is neither.
bool address_parse(const char *text, struct sockaddr_storage *address);

// Writes "ip:port" ("[ip]:port" for IPv6; an IPv4 address mapped into IPv6 as IPv4) into text of
// ADDRESS_TEXT_MAX bytes; returns text.
char *address_write(const struct sockaddr *address, char *text);

// An address in a single form, to compare and hash: IPv4 is mapped into IPv6.
struct address_key {
    unsigned char ip[16];
    unsigned char port[2];
};
struct address_key address_key_of(const struct sockaddr *address);
