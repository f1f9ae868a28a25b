// IP addresses with ports, as text and as sockets know them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 64

// Reads "127.0.0.1:7700" or "[::]:7700". False, with *address untouched, when it is neither.
bool address_parse(const char *text, struct sockaddr_storage *address);

// Whether only this machine reaches it.
bool address_is_loopback(const struct sockaddr_storage *address);

// Writes "ip:port" ("[ip]:port" for IPv6; an IPv4 address mapped into IPv6 as IPv4) into text of
// ADDRESS_TEXT_MAX bytes; returns text.
char *address_write(const struct sockaddr *address, char *text);

// An address in a single form, to compare and hash: IPv4 is mapped into IPv6.
struct address_key {
    unsigned char ip[16];
    unsigned char port[2];
};
struct address_key address_key_of(const struct sockaddr *address);

// Addresses that begin alike: those of a network.
struct address_range {
    unsigned char ip[16]; // as in address_key
    unsigned bits;        // of these
};
// Reads "192.0.2.0/24", "2001:db8::/32", or one address. False, with *range untouched, when it is none of these.
bool address_range_parse(const char *text, struct address_range *range);
bool address_range_has(const struct address_range *range, const unsigned char ip[16]);
