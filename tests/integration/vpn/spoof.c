/* Sends one UDP datagram from whatever address it is told: spoof SOURCE TARGET PORT TEXT. Needs raw sockets. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    unsigned char packet[1500] = {0x45};
    struct sockaddr_in to = {.sin_family = AF_INET};
    int on = 1, fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (argc != 5 || fd < 0 || setsockopt(fd, IPPROTO_IP, IP_HDRINCL, &on, sizeof on)) return perror("spoof"), 1;
    unsigned text = strlen(argv[4]), size = 28 + text, port = atoi(argv[3]);
    packet[8] = 64;
    packet[9] = IPPROTO_UDP;
    inet_pton(AF_INET, argv[1], packet + 12);
    inet_pton(AF_INET, argv[2], packet + 16);
    packet[20] = packet[22] = port >> 8, packet[21] = packet[23] = port;
    packet[24] = (8 + text) >> 8, packet[25] = 8 + text; /* no UDP checksum: zero is allowed */
    memcpy(packet + 28, argv[4], text);
    memcpy(&to.sin_addr, packet + 16, 4);
    return sendto(fd, packet, size, 0, (void *)&to, sizeof to) == (int)size ? 0 : 2;
}
