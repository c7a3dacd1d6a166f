/* A libnvidia-ml.so.1 that plays the GPUs described in the variable STUB_NVML: "count=2;name=NVIDIA H200;1.lost=1".
   A key may be given for one GPU ("1.name"); a call whose key is absent is "not supported". The value of "blocks" and
   "crashes" is the name of a call that never returns, or is a segmentation fault. The struct layouts are those of
   nvidia-ml-py (pynvml.py). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void *device_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_t;

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

static int value_of(const char *key, char *out, size_t size) {
    const char *script = getenv("STUB_NVML");
    size_t length = strlen(key);
    while (script && *script) {
        const char *end = strchr(script, ';');
        size_t whole = end ? (size_t)(end - script) : strlen(script);
        if (whole > length && !strncmp(script, key, length) && script[length] == '=') {
            snprintf(out, size, "%.*s", (int)(whole - length - 1), script + length + 1);
            return 1;
        }
        script = end ? end + 1 : NULL;
    }
    return 0;
}

static long number(const char *key, long otherwise) {
    char text[64];
    return value_of(key, text, sizeof text) ? strtol(text, NULL, 0) : otherwise;
}

/* Handles are the index plus one. */
static long index_of(device_t device) { return (long)device - 1; }

static int own(device_t device, const char *key, char *out, size_t size) {
    char full[96];
    snprintf(full, sizeof full, "%ld.%s", index_of(device), key);
    return value_of(full, out, size) || value_of(key, out, size);
}

/* How many calls a GPU answers before it is lost: "1.lost=6". */
static int lost(device_t device) {
    static long calls[64];
    char text[64];
    if (!own(device, "lost", text, sizeof text)) return 0;
    return ++calls[index_of(device) & 63] > strtol(text, NULL, 0);
}

/* What the script lets happen to this call. */
static void befall(device_t device, const char *call) {
    char text[96];
    while (own(device, "blocks", text, sizeof text) && !strcmp(text, call)) pause();
    if (own(device, "crashes", text, sizeof text) && !strcmp(text, call)) raise(SIGSEGV);
}

static int text_of(device_t device, const char *key, char *out, size_t size) {
    if (lost(device)) return GPU_IS_LOST;
    return own(device, key, out, size) ? OK : NOT_SUPPORTED;
}

static int number_of(device_t device, const char *key, unsigned long long *out) {
    char text[256];
    int status = text_of(device, key, text, sizeof text);
    if (status == OK) *out = strtoull(text, NULL, 0);
    return status;
}

static int unsigned_of(device_t device, const char *key, unsigned *out) {
    unsigned long long wide = 0;
    int status = number_of(device, key, &wide);
    if (status == OK) *out = (unsigned)wide;
    return status;
}

/* In a call of the library: what befalls it, then its answer. */
#define get_text(device, key, out, size) (befall(device, __func__), text_of(device, key, out, size))
#define get_number(device, key, out) (befall(device, __func__), number_of(device, key, out))
#define get_unsigned(device, key, out) (befall(device, __func__), unsigned_of(device, key, out))

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    befall(NULL, __func__);
    return (int)number("init", OK);
}

int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int status) { (void)status; return "an error of the stub"; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return value_of("driver", out, size) ? OK : NOT_SUPPORTED; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = (int)number("cuda", 0); return *out ? OK : NOT_SUPPORTED; }
/* "count_told" where it is not how many there are. */
int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)number("count_told", number("count", 1)); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *out) {
    *out = (device_t)(long)(index + 1);
    befall(*out, __func__);
    return (long)index < number("count", 1) ? (lost(*out) ? GPU_IS_LOST : OK) : INVALID_ARGUMENT;
}

int nvmlDeviceGetName(device_t d, char *out, unsigned size) { return get_text(d, "name", out, size); }
int nvmlDeviceGetUUID(device_t d, char *out, unsigned size) { return get_text(d, "uuid", out, size); }
int nvmlDeviceGetPciInfo_v3(device_t d, pci_t *out) {
    memset(out, 0, sizeof *out);
    return get_text(d, "pci", out->bus_id, sizeof out->bus_id);
}

int nvmlDeviceGetCudaComputeCapability(device_t d, int *major, int *minor) {
    char text[16];
    int status = get_text(d, "cc", text, sizeof text);
    return status == OK && sscanf(text, "%d.%d", major, minor) != 2 ? NOT_SUPPORTED : status;
}

int nvmlDeviceGetMemoryInfo(device_t d, memory_t *out) {
    int status = get_number(d, "memory", &out->total);
    return status == OK ? get_number(d, "memory_used_v1", &out->used) : status;
}

int nvmlDeviceGetMemoryInfo_v2(device_t d, memory_v2_t *out) {
    int status = get_number(d, "memory", &out->total);
    return status == OK ? get_number(d, "memory_used", &out->used) : status;
}

int nvmlDeviceGetEnforcedPowerLimit(device_t d, unsigned *out) { return get_unsigned(d, "power_limit", out); }
int nvmlDeviceGetPowerManagementDefaultLimit(device_t d, unsigned *out) { return get_unsigned(d, "power_default", out); }
int nvmlDeviceGetPowerUsage(device_t d, unsigned *out) { return get_unsigned(d, "power", out); }
int nvmlDeviceGetTemperature(device_t d, unsigned sensor, unsigned *out) {
    (void)sensor;
    return get_unsigned(d, "temperature", out);
}

int nvmlDeviceGetClockInfo(device_t d, unsigned which, unsigned *out) {
    return get_unsigned(d, which == 2 ? "memory_clock" : "sm_clock", out);
}

int nvmlDeviceGetMaxClockInfo(device_t d, unsigned which, unsigned *out) {
    return get_unsigned(d, which == 2 ? "memory_clock_max" : "sm_clock_max", out);
}

int nvmlDeviceGetApplicationsClock(device_t d, unsigned which, unsigned *out) {
    return get_unsigned(d, which == 2 ? "memory_clock_max" : "application_clock", out);
}

int nvmlDeviceGetDefaultApplicationsClock(device_t d, unsigned which, unsigned *out) {
    return get_unsigned(d, which == 2 ? "memory_clock_max" : "application_clock_default", out);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(device_t d, unsigned long long *out) { return get_number(d, "reasons", out); }
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t d, unsigned long long *out) { return get_number(d, "reasons", out); }

int nvmlDeviceGetMigMode(device_t d, unsigned *current, unsigned *pending) {
    int status = get_unsigned(d, "mig", current);
    *pending = *current;
    return status;
}

int nvmlDeviceGetEccMode(device_t d, unsigned *current, unsigned *pending) {
    int status = get_unsigned(d, "ecc", current);
    *pending = *current;
    return status;
}

int nvmlDeviceGetCurrPcieLinkGeneration(device_t d, unsigned *out) { return get_unsigned(d, "pcie_generation", out); }
int nvmlDeviceGetMaxPcieLinkGeneration(device_t d, unsigned *out) { return get_unsigned(d, "pcie_generation_max", out); }
int nvmlDeviceGetCurrPcieLinkWidth(device_t d, unsigned *out) { return get_unsigned(d, "pcie_width", out); }
int nvmlDeviceGetMaxPcieLinkWidth(device_t d, unsigned *out) { return get_unsigned(d, "pcie_width_max", out); }
/* "nvlinks": how many links are up, of 18; without the entry there is no NVLink. */
int nvmlDeviceGetNvLinkState(device_t d, unsigned link, unsigned *out) {
    int status = get_unsigned(d, "nvlinks", out);
    *out = link < *out;
    return status;
}

int nvmlDeviceGetComputeMode(device_t d, unsigned *out) { return get_unsigned(d, "compute_mode", out); }
int nvmlDeviceGetPersistenceMode(device_t d, unsigned *out) { return get_unsigned(d, "persistence", out); }
int nvmlDeviceGetVirtualizationMode(device_t d, unsigned long long *out) { return get_number(d, "virtualization", out); }
int nvmlDeviceGetNumGpuCores(device_t d, unsigned *out) { return get_unsigned(d, "cores", out); }
int nvmlDeviceGetUtilizationRates(device_t d, utilization_t *out) {
    out->memory = 0;
    return get_unsigned(d, "utilization", &out->gpu);
}

/* "processes=123:1073741824,456:2147483648" */
static int processes(device_t d, const char *key, unsigned *count, process_t *out) {
    char text[256], *entry, *rest = NULL;
    unsigned found = 0;
    int status = text_of(d, key, text, sizeof text);
    if (status != OK) return status;
    for (entry = strtok_r(text, ",", &rest); entry; entry = strtok_r(NULL, ",", &rest), found++) {
        char *colon = strchr(entry, ':');
        if (!out) continue;
        memset(&out[found], 0, sizeof out[found]);
        out[found].pid = (unsigned)strtoul(entry, NULL, 10);
        out[found].used = colon ? strtoull(colon + 1, NULL, 10) : ~0ULL;
    }
    *count = found;
    return found && !out ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t d, unsigned *count, process_t *out) {
    befall(d, __func__);
    return processes(d, "processes", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t d, unsigned *count, process_t *out) {
    befall(d, __func__);
    return processes(d, "graphics", count, out);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(device_t d, unsigned *count, process_t *out) {
    befall(d, __func__);
    return processes(d, "mps", count, out);
}

typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } work_t;

/* "work=123:45,456:0": the percent of the SMs' time of each process. */
int nvmlDeviceGetProcessUtilization(device_t d, work_t *out, unsigned *count, unsigned long long since) {
    process_t found[16];
    unsigned i, many = 16;
    int status = processes(d, "work", &many, found);
    (void)since;
    if (status != OK) return status;
    for (i = 0; out && i < many; i++) {
        memset(&out[i], 0, sizeof out[i]);
        out[i].pid = found[i].pid;
        out[i].sm = (unsigned)found[i].used;
        out[i].time = 1;
    }
    *count = many;
    return out ? OK : INSUFFICIENT_SIZE;
}
