/* `percale-cni`, which the container runtime runs for every pod: it hands the request to the agent and prints the answer.
 *
 * A static binary, because it runs on the host, where there may be neither Python nor the libraries of the agent's image. It parses
 * nothing: `server.py` is the agent's end, and `wire_format.py` describes what goes over its socket. hatch_build.py compiles it into the
 * wheel.
 *
 * A request without an answer is sent again: every operation is idempotent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 5.0 /* seconds to wait for an agent that does not answer, e.g. while it restarts */
#define ANSWER_TIMEOUT 60
#define MOST_ANSWER (16 << 20)
#define VERSIONS "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"

/* Of the CNI specification. */
enum { BAD_ENVIRONMENT = 4, BROKEN_INPUT = 5, TRY_AGAIN = 11, NOT_AVAILABLE = 50 };

/* `install.py` writes the agent's socket behind the mark. Volatile: the compiler must not know the value. */
static const volatile struct {
    char mark[25];
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
} installed_socket = {"percale-cni agent socket", "/run/percale/cni.sock"};

extern char **environ;

struct bytes {
    char *data;
    size_t size;
};

static void append(struct bytes *to, const void *data, size_t size) {
    char *grown = realloc(to->data, to->size + size + 1);
    if (grown == NULL)
        abort();
    if (size > 0)
        memcpy(grown + to->size, data, size);
    to->data = grown;
    to->size += size;
}

static void print(const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(STDOUT_FILENO, data, size);
        if (written < 0 && errno != EINTR)
            return; /* nobody reads any more */
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
}

static void append_json_text(struct bytes *to, const char *text) {
    append(to, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        char escaped[8];
        int size = snprintf(escaped, sizeof escaped, byte < 0x20 ? "\\u%04x" : strchr("\"\\", byte) ? "\\%c" : "%c", byte);
        append(to, escaped, (size_t)size);
    }
    append(to, "\"", 1);
}

/* Prints a CNI error object; the exit code. */
static int fail(int code, const char *message, const char *details) {
    struct bytes object = {0};
    char start[64];
    append(&object, start, (size_t)snprintf(start, sizeof start, "{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":", code));
    append_json_text(&object, message);
    append(&object, ",\"details\":", 11);
    append_json_text(&object, details);
    append(&object, "}\n", 2);
    print(object.data, object.size);
    return 1;
}

static int read_input(struct bytes *input) {
    char block[65536];
    for (;;) {
        ssize_t size = read(STDIN_FILENO, block, sizeof block);
        if (size == 0)
            return 0;
        if (size > 0)
            append(input, block, (size_t)size);
        else if (errno != EINTR)
            return -1;
    }
}

/* All of it, the namespace's descriptor with the first byte. */
static int send_request(int agent, const struct bytes *request, int namespace) {
    union {
        char buffer[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    struct iovec part = {request->data, request->size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (namespace >= 0) {
        message.msg_control = control.buffer;
        message.msg_controllen = sizeof control.buffer;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &namespace, sizeof(int));
    }
    ssize_t sent = sendmsg(agent, &message, MSG_NOSIGNAL);
    if (sent < 0)
        return -1;
    for (size_t done = (size_t)sent; done < request->size; done += (size_t)sent) {
        sent = send(agent, request->data + done, request->size - done, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EPIPE ? 0 : -1; /* an agent that refuses a request does not read all of it: its answer says why */
    }
    return 0;
}

static int receive(int agent, void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t part = recv(agent, (char *)data + done, size - done, 0);
        if (part == 0)
            errno = ECONNRESET;
        if (part <= 0)
            return -1;
        done += (size_t)part;
    }
    return 0;
}

/* One request, one answer: its exit code and what to print. -1 and errno when either does not get through. */
static int ask(const char *path, const struct bytes *request, int namespace, struct bytes *output) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT};
    struct __attribute__((packed)) {
        uint32_t size;
        uint8_t code;
    } head;
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (agent < 0)
        return -1;
    int code = -1;
    setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(agent, (struct sockaddr *)&address, sizeof address) == 0 && send_request(agent, request, namespace) == 0 &&
        receive(agent, &head, sizeof head) == 0) {
        output->size = ntohl(head.size);
        output->data = output->size <= MOST_ANSWER ? malloc(output->size + 1) : NULL;
        if (output->data == NULL)
            errno = EMSGSIZE;
        else if (receive(agent, output->data, output->size) == 0)
            code = head.code;
        else
            free(output->data);
    }
    int problem = errno;
    close(agent);
    errno = problem;
    return code;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Asks the agent until it answers or the time is up; the exit code. */
static int forward(const char *command, const char *path) {
    struct bytes variables = {0}, input = {0}, request = {0}, output = {0};
    char details[512];
    if (read_input(&input) < 0) {
        snprintf(details, sizeof details, "cannot read the configuration from standard input: %s", strerror(errno));
        return fail(BROKEN_INPUT, details, "");
    }
    for (char **each = environ; *each != NULL; each++)
        if (strncmp(*each, "CNI_", 4) == 0)
            append(&variables, *each, strlen(*each) + 1);
    uint32_t sizes[] = {htonl((uint32_t)variables.size), htonl((uint32_t)input.size)};
    append(&request, sizes, sizeof sizes);
    append(&request, variables.data, variables.size);
    append(&request, input.data, input.size);
    /* There may be no namespace (any more): the agent decides what that means. */
    const char *netns = getenv("CNI_NETNS");
    int namespace = netns != NULL ? open(netns, O_RDONLY | O_CLOEXEC) : -1;
    int is_status = strcmp(command, "STATUS") == 0;
    double end = now() + PATIENCE;
    for (;;) {
        int code = ask(path, &request, namespace, &output);
        if (code >= 0) {
            print(output.data, output.size);
            return code;
        }
        if (is_status || now() > end) {
            snprintf(details, sizeof details, "%s: %s; see the log of the percale agent", path, strerror(errno));
            return fail(is_status ? NOT_AVAILABLE : TRY_AGAIN, "the percale agent does not answer on this node", details);
        }
        nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    }
}

static int is_one_of(const char *word, const char *const *words) {
    for (; *words != NULL; words++)
        if (strcmp(word, *words) == 0)
            return 1;
    return 0;
}

int main(void) {
    static const char *const forwarded[] = {"ADD", "DEL", "CHECK", "STATUS", "GC", NULL};
    char path[sizeof installed_socket.path];
    const char *command = getenv("CNI_COMMAND");
    const char *other = getenv("PERCALE_CNI_SOCKET");
    for (size_t i = 0; i < sizeof path; i++)
        path[i] = installed_socket.path[i];
    if (command != NULL && strcmp(command, "VERSION") == 0) {
        print(VERSIONS, sizeof VERSIONS - 1);
        return 0;
    }
    if (command == NULL || !is_one_of(command, forwarded))
        return fail(BAD_ENVIRONMENT, "CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION", "");
    return forward(command, other != NULL ? other : path);
}
