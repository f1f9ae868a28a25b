// A place on the earth, as a geolocation service says it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct location {
    int32_t latitude, longitude; // 1e-7 degrees
    uint32_t accuracy;           // decimeters around it
    bool wifi;                   // found by Wi-Fi; otherwise by cells
};
