// SELECT 1 over and over by go-dqlite's driver, through database/sql as Go programs use it: the measure for clients from
// outside. client ADDRESS SECONDS prints one line like those of the driver.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sort"
	"strconv"
	"syscall"
	"time"

	"github.com/canonical/go-dqlite/v2/client"
	"github.com/canonical/go-dqlite/v2/driver"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func cpu() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e3
}

func main() {
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	check(err)
	ctx := context.Background()
	store := client.NewInmemNodeStore()
	check(store.Set(ctx, []client.NodeInfo{{ID: 1, Address: os.Args[1]}}))
	registered, err := driver.New(store)
	check(err)
	sql.Register("dqlite-bench", registered)
	db, err := sql.Open("dqlite-bench", "bench.db")
	check(err)
	db.SetMaxOpenConns(1)

	var took []float64
	var began time.Time
	var cpuBefore float64
	for i := -500; i < 0 || time.Since(began).Seconds() < seconds; i++ {
		if i < 0 {
			began, cpuBefore = time.Now(), cpu()
		}
		start := time.Now()
		var one int
		check(db.QueryRowContext(ctx, "SELECT 1").Scan(&one))
		if i >= 0 {
			took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
		}
	}
	n, wall := len(took), time.Since(began).Seconds()
	cpuPerCall := (cpu() - cpuBefore) / float64(n)
	sort.Float64s(took)
	fmt.Printf("call=remote_select1 who=library n=%d min_us=%.2f p50_us=%.2f p90_us=%.2f p99_us=%.2f ops_s=%.1f cpu_us=%.2f\n",
		n, took[0], took[n/2], took[n*9/10], took[n*99/100], float64(n)/wall, cpuPerCall)
}
