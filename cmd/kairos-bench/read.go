package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/verity"
)

// reads measures how fast the kernel of the Debian base reads images of it, through dm-verity
// and loop devices as on a node, in one virtual machine.
func (b *bench) reads(ctx context.Context) error {
	dir := filepath.Join(b.dir, "vm")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	job, plain, err := b.readJob(ctx, dir)
	if err != nil {
		return err
	}
	defer plain.Close()
	root, err := erofs.Open(plain)
	if err != nil {
		return err
	}
	m, err := imagevm.Machine(ctx, root, dir, filepath.Join(dir, "disk"))
	if err != nil {
		return err
	}
	console, off, err := vmtest.PowerOn(ctx, m, os.Stderr)
	if err != nil {
		return err
	}
	defer off()
	if _, err := console.Expect(regexp.MustCompile(imagevm.DoneMark), 90*time.Minute); err != nil {
		return err
	}
	table, err := readTable(console.Output(), job)
	if err != nil {
		return err
	}
	return b.replace(
		"read",
		fmt.Sprintf(
			"Input: debian-trixie.tar. Medians of %d. QEMU without KVM on %s.\n\n%s",
			b.runs,
			machine(),
			table,
		),
	)
}

// readJob makes the images. It returns the uncompressed one, too.
func (b *bench) readJob(ctx context.Context, dir string) (job imagevm.Job, plain *os.File, err error) {
	all, err := subjects()
	if err != nil {
		return job, nil, err
	}
	disk, err := imagevm.NewDisk(filepath.Join(dir, "disk"))
	if err != nil {
		return job, nil, err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return job, nil, err
	}
	if _, err := process(ctx, "", "tar", "--extract", "--file", debianTar, "--directory", tree, "--numeric-owner",
		"--xattrs", "--xattrs-include=*"); err != nil {
		return job, nil, err
	}
	job.Rounds = b.runs
	for _, name := range []string{
		"Kairos none", "Kairos lz4", "Kairos zstd-3", "Kairos zstd-9", "Kairos zstd-15", "mkfs.erofs zstd-3, 128 KiB",
		"mksquashfs zstd-3", "mksquashfs zstd-15", "mksquashfs gzip, 1 MiB",
	} {
		s := all[slices.IndexFunc(all, func(s subject) bool { return s.name == name })]
		in, image := debianTar, filepath.Join(dir, "image")
		if s.unpack {
			in = tree
		}
		if name == "Kairos none" {
			image = filepath.Join(dir, "plain")
		}
		os.Remove(image)
		if _, err := process(ctx, "", s.args(in, image)...); err != nil {
			return job, nil, err
		}
		r := imagevm.Read{Name: name, FSType: "erofs"}
		if strings.HasPrefix(name, "mksquashfs") {
			r.FSType = "squashfs"
		}
		if err := addWithVerity(disk, image, &r); err != nil {
			return job, nil, err
		}
		job.Reads = append(job.Reads, r)
	}
	if err := errors.Join(disk.Finish(job), os.RemoveAll(tree)); err != nil {
		return job, nil, err
	}
	plain, err = os.Open(filepath.Join(dir, "plain"))
	return job, plain, err
}

func addWithVerity(disk *imagevm.Disk, image string, r *imagevm.Read) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.DataSize = (info.Size() + 4095) / 4096 * 4096
	if err := f.Truncate(r.DataSize); err != nil {
		return err
	}
	w := verity.NewWriter(f)
	buf := make([]byte, 1<<20)
	for at := int64(0); at < r.DataSize; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), r.DataSize-at)], at)
		if err != nil {
			return err
		}
		if _, err := w.WriteAt(buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	root, total, err := w.Finish(r.DataSize)
	if err != nil {
		return err
	}
	r.RootHash = root
	r.Image, err = disk.Add(io.NewSectionReader(f, 0, total))
	return err
}

func readTable(output string, job imagevm.Job) (string, error) {
	type key struct{ name, kind string }
	speed, seconds := map[key][]float64{}, map[key][]float64{}
	for line := range strings.Lines(output) {
		text, ok := strings.CutPrefix(line, imagevm.ResultMark)
		if !ok {
			continue
		}
		var r imagevm.Result
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return "", fmt.Errorf("%q: %w", line, err)
		}
		k := key{r.Name, r.Kind}
		seconds[k] = append(seconds[k], r.Seconds)
		speed[k] = append(speed[k], float64(r.Bytes)/1e6/r.Seconds)
	}
	var t strings.Builder
	t.WriteString(
		"| image | MB with tree | walk, s | sequential, MB/s | 400 random reads of 4 KiB, " +
			"s |\n|---|--:|--:|--:|--:|\n",
	)
	for _, r := range job.Reads {
		if len(seconds[key{r.Name, "random"}]) != job.Rounds {
			return "", fmt.Errorf("%s: %d of %d measurements", r.Name, len(seconds[key{r.Name, "random"}]), job.Rounds)
		}
		fmt.Fprintf(
			&t,
			"| %s | %.1f | %.2f | %.1f | %.2f |\n",
			r.Name,
			mb(r.Image.Size),
			median(seconds[key{r.Name, "walk"}]),
			median(speed[key{r.Name, "sequential"}]),
			median(seconds[key{r.Name, "random"}]),
		)
	}
	return t.String(), nil
}
