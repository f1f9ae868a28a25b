// mochi in this process. Arguments: the address, the file of its data, and an ident whose messages may not be published.
package main

import (
	"log"
	"os"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/listeners"
)

type access struct {
	auth.AllowHook
	forbidden string
}

func (hook *access) OnACLCheck(client *mqtt.Client, topic string, write bool) bool {
	return !write || !strings.Contains(topic, "/message/") || !strings.HasSuffix(topic, "/"+hook.forbidden)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	server := mqtt.New(nil)
	must(server.AddHook(&access{forbidden: os.Args[3]}, nil))
	must(server.AddHook(new(bolt.Hook), &bolt.Options{Path: os.Args[2]}))
	must(server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: os.Args[1]})))
	must(server.Serve())
	select {}
}
