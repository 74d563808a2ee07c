/* The first process of the VM: loads the modules of the initramfs, mounts the host's file system, read-only, below a
   writable one in memory, and runs there the script named by its argument. Built and packed by machine.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int result, const char *what) {
  if (result < 0) {
    perror(what);
    reboot(RB_AUTOBOOT); /* qemu ends: -no-reboot */
  }
}

static void mounted(const char *type, const char *source, const char *at, const char *options) {
  mkdir(at, 0755);
  check(mount(source, at, type, 0, options), at);
}

int main(int argc, char **argv) {
  char name[32];
  for (int number = 0;; number++) {
    snprintf(name, sizeof name, "/%d.ko", number);
    int module = open(name, O_RDONLY);
    if (module < 0) break;
    check(syscall(SYS_finit_module, module, "", 0), name);
    close(module);
  }
  mounted("virtiofs", "root", "/host", NULL);
  mounted("tmpfs", "tmpfs", "/memory", NULL);
  mkdir("/memory/upper", 0755);
  mkdir("/memory/work", 0755);
  mounted("overlay", "overlay", "/root", "lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work");
  mounted("proc", "proc", "/root/proc", NULL);
  mounted("sysfs", "sysfs", "/root/sys", NULL);
  mounted("devtmpfs", "devtmpfs", "/root/dev", NULL);
  mounted("tmpfs", "tmpfs", "/root/run", NULL);
  mounted("tmpfs", "tmpfs", "/root/dev/shm", NULL);
  check(chdir("/root"), "/root");
  check(mount(".", "/", NULL, MS_MOVE, NULL), "/");
  check(chroot("."), "chroot");
  pid_t script = fork();
  if (script == 0) {
    setsid();
    execl("/bin/sh", "sh", argc > 1 ? argv[1] : "", NULL);
    _exit(127);
  }
  int status;
  while (wait(&status) != script) continue; /* orphans end here */
  sync();
  reboot(RB_AUTOBOOT);
}
