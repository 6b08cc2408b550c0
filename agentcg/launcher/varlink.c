/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "varlink.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int64_t now_msec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int varlink_connect(const char *path, int64_t timeout_msec)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	/* Bounds connect, which waits while the daemon's backlog is full, and every send. */
	struct timeval timeout = {timeout_msec / 1000, timeout_msec % 1000 * 1000};
	size_t length = strlen(path);
	int fd, error;

	if (length >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, length);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0) {
		do {
			error = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0;
		} while (error == EINTR);
		if (!error)
			return fd;
		if (error == EAGAIN)
			error = ETIMEDOUT;
	} else {
		error = errno;
	}
	close(fd);
	return -error;
}

static enum varlink_result send_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);

		if (sent < 0) {
			if (errno == EINTR)
				continue;
			return errno == EAGAIN ? VARLINK_TIMEOUT : VARLINK_CLOSED;
		}
		text += sent;
		length -= (size_t)sent;
	}
	return VARLINK_OK;
}

static enum varlink_result wait_for_input(int fd, int64_t deadline_msec)
{
	for (;;) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		int64_t left = deadline_msec - now_msec();
		int ready = poll(&poll_fd, 1, left > 0 ? (int)left : 0);

		if (ready > 0)
			return VARLINK_OK;
		if (ready == 0)
			return VARLINK_TIMEOUT;
		if (errno != EINTR)
			return VARLINK_CLOSED;
	}
}

static enum varlink_result keep_descriptors(struct msghdr *header, struct varlink_reply *reply)
{
	enum varlink_result result = header->msg_flags & MSG_CTRUNC ? VARLINK_TOO_MANY_DESCRIPTORS : VARLINK_OK;

	for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item; item = CMSG_NXTHDR(header, item)) {
		size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof(int));
			if (reply->descriptor_count < VARLINK_DESCRIPTORS_MAX) {
				reply->descriptors[reply->descriptor_count++] = fd;
			} else {
				close(fd);
				result = VARLINK_TOO_MANY_DESCRIPTORS;
			}
		}
	}
	return result;
}

/* Read up to the NUL, which is left out of the length. */
static enum varlink_result receive(int fd, int64_t deadline_msec, struct varlink_reply *reply)
{
	for (;;) {
		union {
			char bytes[CMSG_SPACE(VARLINK_DESCRIPTORS_MAX * sizeof(int))];
			struct cmsghdr aligned;
		} control;
		struct iovec part = {reply->text + reply->length, sizeof(reply->text) - reply->length};
		struct msghdr header = {
			.msg_iov = &part,
			.msg_iovlen = 1,
			.msg_control = control.bytes,
			.msg_controllen = sizeof(control.bytes),
		};
		enum varlink_result result;
		const char *nul;
		ssize_t received;

		if (!part.iov_len)
			return VARLINK_TOO_LONG;
		result = wait_for_input(fd, deadline_msec);
		if (result != VARLINK_OK)
			return result;
		received = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (received < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (received <= 0)
			return VARLINK_CLOSED;
		result = keep_descriptors(&header, reply);
		if (result != VARLINK_OK)
			return result;
		nul = memchr(part.iov_base, '\0', (size_t)received);
		reply->length += (size_t)received;
		if (nul) {
			/* One call has one reply: more behind it is not something to guess about. */
			if (nul + 1 != reply->text + reply->length)
				return VARLINK_NOT_A_REPLY;
			reply->length--;
			return VARLINK_OK;
		}
	}
}

static enum varlink_result read_envelope(struct varlink_reply *reply)
{
	struct json root, error;

	if (!json_parse(reply->text, reply->length, &root) || !json_is_object(root))
		return VARLINK_NOT_A_REPLY;
	if (json_get(root, "parameters", &reply->parameters) && !json_is_object(reply->parameters))
		return VARLINK_NOT_A_REPLY;
	if (json_get(root, "error", &error) &&
	    (!json_text(error, reply->error, sizeof(reply->error), NULL) || !reply->error[0]))
		return VARLINK_NOT_A_REPLY;
	return VARLINK_OK;
}

enum varlink_result varlink_call(int fd, const struct message *message, int64_t deadline_msec,
				 struct varlink_reply *reply)
{
	enum varlink_result result;

	reply->length = 0;
	reply->parameters = (struct json){reply->text, reply->text};
	reply->error[0] = '\0';
	reply->descriptor_count = 0;
	result = send_all(fd, message->text, message->length);
	if (result == VARLINK_OK)
		result = receive(fd, deadline_msec, reply);
	if (result == VARLINK_OK)
		result = read_envelope(reply);
	if (result != VARLINK_OK)
		varlink_close_descriptors(reply, -1);
	return result;
}

int varlink_ask(const char *path, const struct message *message, int64_t timeout_msec, struct varlink_reply *reply)
{
	enum varlink_result result;
	int fd = varlink_connect(path, timeout_msec);

	if (fd < 0)
		return -fd;
	result = varlink_call(fd, message, now_msec() + timeout_msec, reply);
	varlink_close_descriptors(reply, -1);
	close(fd);
	if (result != VARLINK_OK)
		return result == VARLINK_TIMEOUT ? ETIMEDOUT : EPROTO;
	return reply->error[0] ? EPERM : 0;
}

void varlink_close_descriptors(struct varlink_reply *reply, int keep)
{
	for (unsigned i = 0; i < reply->descriptor_count; i++)
		if (reply->descriptors[i] != keep)
			close(reply->descriptors[i]);
	reply->descriptor_count = 0;
}
