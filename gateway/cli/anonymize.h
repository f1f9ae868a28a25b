// Captures without what says whose they are: IMEIs, addresses, names.
#pragma once

#include <stdbool.h>

#include "gateway/cli/capture_file.h"

#define ANONYMIZE_IDENT_MIN 8 // characters that are not found by accident

// Whether an ident can be told from other bytes.
bool anonymize_can(const char *ident);

// Puts a made-up IMEI in place of each: those of the devices, those that the codec finds in the bytes, and whatever else
// there looks like one; in all the ways of spellings.h. A checksum that was right is right again. Addresses of devices,
// labels and the title go too; positions stay. Connections with an ident that is too short are left out; in those that
// never said who they are, whatever has the checksum of an IMEI counts as one, and more may be left. What of that there
// is to say, for people, is returned, to be freed; or NULL.
char *anonymize(struct capture_file *file);
