// Send rows as lines of text over TCP and print the reply to each.
//
//   g++ -std=c++20 client_lines.cpp -o client_lines && ./client_lines [HOST [PORT]]

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string_view>

namespace {

int connect_to(const char* host, const char* port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host, port, &hints, &found)) {
    std::fprintf(stderr, "%s: %s\n", host, gai_strerror(error));
    return -1;
  }
  int socket_fd = -1;
  for (const addrinfo* address = found; address != nullptr && socket_fd < 0; address = address->ai_next) {
    socket_fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (socket_fd >= 0 && connect(socket_fd, address->ai_addr, address->ai_addrlen) != 0) {
      close(socket_fd);
      socket_fd = -1;
    }
  }
  if (socket_fd < 0) std::perror(host);
  freeaddrinfo(found);
  return socket_fd;
}

bool send_all(int socket_fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(socket_fd, data.data(), data.size(), MSG_NOSIGNAL);
    if (sent < 0) return false;
    data.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int server = connect_to(count > 1 ? arguments[1] : "localhost", count > 2 ? arguments[2] : "9000");
  if (server < 0) return 1;

  // One row a line, values separated by blanks or commas; any number may be on their way.
  if (!send_all(server, "1950 4.25 55.0 1.65\n1950 4.25 55.0 3.20\n")) {
    std::perror("send");
    return 1;
  }
  shutdown(server, SHUT_WR);  // No more rows: the server answers those it has and closes.

  char replies[4096];
  for (ssize_t size = 0; (size = read(server, replies, sizeof replies)) > 0;) {
    std::fwrite(replies, 1, static_cast<std::size_t>(size), stdout);  // OK, ANOMALY or ERROR: reason
  }
  close(server);
}
