// Command pause holds a pod's namespaces open. It is the pod's first process where the pod shares its process namespace,
// so it also collects processes whose parents have ended.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// One of each kind may wait while another is handled; more would say nothing new.
	heard := make(chan os.Signal, 3)
	signal.Notify(heard, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for which := range heard {
		if which != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
}
