/* Counts the instructions of a program under qemu's user-mode emulation: a plugin of qemu's TCG, API version 1.
 *
 *   qemu-aarch64 -plugin instructions.so,fd=N PROGRAM ...
 *
 * At every prctl(2) whose option is MARK the number of instructions since the start is written, as an unsigned
 * 64-bit number, to the beginning of file descriptor N, before the call returns to the program; the kernel knows
 * no such option, so the call does nothing else. User-mode emulation shares descriptors with its program, which
 * reads the number from the same file.
 *
 * A block of instructions counts when it is entered. The counter is one for all threads and not atomic: programs
 * are counted with a single thread at work.
 *
 * qemu's own header is not in Debian's package, so what is used of it is declared here:
 * https://www.qemu.org/docs/master/devel/tcg-plugins.html
 */
#define _XOPEN_SOURCE 700 /* pwrite */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define MARK 0x45504c4du /* "EPLM"; the same in runtimes/instructions.py */
#define PRCTL_AARCH64 167 /* include/uapi/asm-generic/unistd.h */

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
struct qemu_plugin_info {
    const char *target_name;
    /* more that is not used */
};

typedef void (*translated_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_cb);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORTED int qemu_plugin_version = 1;

static uint64_t count;
static int target = -1;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &count, qemu_plugin_tb_n_insns(block));
}

static void system_call(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t option, uint64_t a2,
                        uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == PRCTL_AARCH64 && (uint32_t)option == MARK) {
        uint64_t now = count;
        if (pwrite(target, &now, sizeof now, 0) != sizeof now) {
            perror("instructions.so: the count cannot be written");
            exit(1);
        }
    }
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_plugin_info *info, int argc, char **argv)
{
    if (strcmp(info->target_name, "aarch64") != 0) {
        fprintf(stderr, "instructions.so: counts aarch64 programs, not %s\n", info->target_name);
        return 1;
    }
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "fd=", 3) == 0)
            target = atoi(argv[i] + 3);
    }
    if (target < 0) {
        fprintf(stderr, "instructions.so: fd=N is missing\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, system_call);
    return 0;
}
