/* A small libnvidia-ml.so.1 for the real pynvml: what it answers stands in the file that
 * NVML_STAND_IN names, "key value" per line, read again when it changes (replace it by rename).
 *
 *   init CODE            what nvmlInit returns (nvmlReturn_t)
 *   restarted N          another N than at the last init: everything is uninitialised (1)
 *   driver N             another N than the DRIVER this was built for: versions differ (18)
 *   hang 1               calls about a card do not return until the file changes
 *   count N              cards; C below is a card's index
 *   C.lost CODE          calls about the card fail with it
 *   C.FIGURE VALUE       e.g. 0.temperature 61; the names are below
 *   C.error.FIGURE CODE  that one figure fails
 *   C.compute / C.graphics   PID:BYTES,PID:-1,...   (-1: not told, as on Windows)
 *
 * Each init appends a byte to the file "<NVML_STAND_IN>.inits".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef DRIVER
#define DRIVER 1
#endif
#define NOT_TOLD 0xFFFFFFFFFFFFFFFFULL
typedef unsigned long long u64;
typedef unsigned int u32;
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2;
typedef struct { u32 pid; u64 memory; u32 gpu, compute; } process;
typedef struct {
    char legacy[16];
    u32 domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} pci_info;

static char text[65536];
static struct stat known;
static long long initialised = -1; /* the "restarted" of the last init */

static int refresh(void) {
    const char *path = getenv("NVML_STAND_IN");
    struct stat now;
    if (!path || stat(path, &now)) return 0;
    if (now.st_ino == known.st_ino && now.st_mtim.tv_nsec == known.st_mtim.tv_nsec &&
        now.st_mtim.tv_sec == known.st_mtim.tv_sec)
        return 0;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(text + 1, 1, sizeof text - 2, file);
    text[0] = '\n';
    text[1 + length] = 0;
    fclose(file);
    known = now;
    return 1;
}

static const char *value(const char *key) {
    char line[96];
    snprintf(line, sizeof line, "\n%s ", key);
    const char *at = strstr(text, line);
    return at ? at + strlen(line) : NULL;
}

static long long number(const char *key, long long otherwise) {
    const char *at = value(key);
    return at ? strtoll(at, NULL, 10) : otherwise;
}

static const char *of_card(void *card, const char *what) {
    static char key[80];
    snprintf(key, sizeof key, "%d.%s", (int)((size_t)card - 1), what);
    return key;
}

static int driver(void) {
    refresh();
    if (number("driver", DRIVER) != DRIVER) return 18;
    return initialised < 0 || number("restarted", 0) != initialised ? 1 : 0;
}

static int asked(void *card, const char *figure) {
    char error[64];
    refresh();
    if (number("hang", 0))
        while (!refresh()) usleep(1000);
    int code = driver();
    if (!code) code = (int)number(of_card(card, "lost"), 0);
    snprintf(error, sizeof error, "error.%s", figure);
    if (!code) code = (int)number(of_card(card, error), 0);
    if (!code && !value(of_card(card, figure))) code = 3;
    return code;
}

static int figure(void *card, const char *name, u32 *answer) {
    int code = asked(card, name);
    if (!code) *answer = (u32)number(of_card(card, name), 0);
    return code;
}

static int words(void *card, const char *name, char *answer, u32 length) {
    int code = asked(card, name);
    if (!code) {
        const char *from = value(of_card(card, name));
        size_t size = strcspn(from, "\n");
        if (size >= length) return 7;
        memcpy(answer, from, size);
        answer[size] = 0;
    }
    return code;
}

int nvmlInitWithFlags(u32 flags) {
    char inits[4096];
    (void)flags;
    refresh();
    snprintf(inits, sizeof inits, "%s.inits", getenv("NVML_STAND_IN"));
    FILE *file = fopen(inits, "a");
    if (file) {
        fputc('.', file);
        fclose(file);
    }
    if (number("driver", DRIVER) != DRIVER) return 18;
    int code = (int)number("init", 0);
    initialised = code ? -1 : number("restarted", 0);
    return code;
}
int nvmlShutdown(void) {
    if (initialised < 0) return 1;
    initialised = -1;
    return 0;
}
int nvmlDeviceGetCount_v2(u32 *count) {
    int code = driver();
    *count = (u32)number("count", 0);
    return code;
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, void **card) {
    int code = driver();
    *card = (void *)(size_t)(index + 1);
    if (!code) code = (int)number(of_card(*card, "lost"), 0);
    return code;
}
int nvmlDeviceGetUUID(void *c, char *answer, u32 length) { return words(c, "uuid", answer, length); }
int nvmlDeviceGetName(void *c, char *answer, u32 length) { return words(c, "name", answer, length); }
int nvmlDeviceGetPciInfo_v3(void *c, pci_info *info) {
    memset(info, 0, sizeof *info);
    return words(c, "pci", info->bus_id, sizeof info->bus_id);
}
int nvmlDeviceGetMemoryInfo(void *c, memory_v1 *m) {
    int code = asked(c, "total");
    m->total = (u64)number(of_card(c, "total"), 0);
    m->used = (u64)number(of_card(c, "used"), 0) + (u64)number(of_card(c, "reserved"), 0);
    m->free = m->total - m->used;
    return code;
}
int nvmlDeviceGetMemoryInfo_v2(void *c, memory_v2 *m) {
    if (m->version != (sizeof *m | 2 << 24)) return 25;
    int code = (int)number(of_card(c, "error.memory_v2"), 0);
    if (!code) code = asked(c, "total");
    m->total = (u64)number(of_card(c, "total"), 0);
    m->used = (u64)number(of_card(c, "used"), 0);
    m->reserved = (u64)number(of_card(c, "reserved"), 0);
    m->free = m->total - m->used - m->reserved;
    return code;
}
int nvmlDeviceGetTemperature(void *c, u32 sensor, u32 *t) {
    return sensor ? 2 : figure(c, "temperature", t);
}
int nvmlDeviceGetTemperatureThreshold(void *c, u32 which, u32 *t) {
    return which > 1 ? 2 : figure(c, which ? "slowdown" : "shutdown", t);
}
int nvmlDeviceGetUtilizationRates(void *c, u32 *rates) {
    rates[1] = 0;
    return figure(c, "utilisation", &rates[0]);
}
int nvmlDeviceGetPowerUsage(void *c, u32 *milliwatts) { return figure(c, "power", milliwatts); }
int nvmlDeviceGetEnforcedPowerLimit(void *c, u32 *milliwatts) { return figure(c, "limit", milliwatts); }
int nvmlDeviceGetTotalEnergyConsumption(void *c, u64 *millijoules) {
    int code = asked(c, "energy");
    *millijoules = (u64)number(of_card(c, "energy"), 0);
    return code;
}
int nvmlDeviceGetClockInfo(void *c, u32 type, u32 *megahertz) {
    return type ? 2 : figure(c, "clock", megahertz);
}
#ifdef OLD_NAMES
int nvmlDeviceGetCurrentClocksThrottleReasons(void *c, u64 *reasons)
#else
int nvmlDeviceGetCurrentClocksEventReasons(void *c, u64 *reasons)
#endif
{
    int code = asked(c, "reasons");
    *reasons = (u64)number(of_card(c, "reasons"), 0);
    return code;
}
int nvmlDeviceGetFanSpeed(void *c, u32 *percent) { return figure(c, "fan", percent); }

static int processes(void *c, const char *which, u32 *count, process *list) {
    int code = asked(c, which);
    if (code) return code;
    const char *at = value(of_card(c, which));
    u32 found = 0;
    while (at && *at && *at != '\n' && *at != '-') {
        char *end;
        u32 pid = (u32)strtoul(at, &end, 10);
        long long memory = strtoll(end + 1, &end, 10);
        if (list && found < *count) {
            memset(&list[found], 0, sizeof *list);
            list[found].pid = pid;
            list[found].memory = memory < 0 ? NOT_TOLD : (u64)memory;
        }
        found++;
        at = *end == ',' ? end + 1 : end;
    }
    int fits = list ? found <= *count : !found;
    *count = found;
    return fits ? 0 : 7;
}
#ifdef OLD_NAMES
#define PROCESSES(kind) nvmlDeviceGet##kind##RunningProcesses_v2
#else
#define PROCESSES(kind) nvmlDeviceGet##kind##RunningProcesses_v3
#endif
int PROCESSES(Compute)(void *c, u32 *count, process *list) {
    return processes(c, "compute", count, list);
}
int PROCESSES(Graphics)(void *c, u32 *count, process *list) {
    return processes(c, "graphics", count, list);
}
