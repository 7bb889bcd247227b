package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNoRanges says that a registry does not give a part of a blob, or gives another one than was asked for.
var ErrNoRanges = errors.New("the registry does not give parts of a blob")

// Range returns n bytes of a blob from off on, unchecked. A connection that breaks is taken up where it broke. The
// error is [ErrNoRanges] where the answer is another part.
func (r *Repository) Range(ctx context.Context, desc ocispec.Descriptor, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n <= 0 || off > desc.Size-n {
		return nil, fmt.Errorf("blob %s: %d bytes from %d on, and it has %d", desc.Digest, n, off, desc.Size)
	}
	// containerd's fetcher asks for all from an offset on; the transport puts the end in.
	ctx = context.WithValue(ctx, rangeKey{}, wanted{desc.Digest.String(), off + n - 1})
	blob, err := r.Fetch(ctx, desc)
	if err != nil {
		return nil, r.Explain(err)
	}
	if _, err := blob.(io.Seeker).Seek(off, io.SeekStart); err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(blob, n), blob}, nil
}

type rangeKey struct{}

// wanted is the blob of which a part is wanted, and the part's last byte.
type wanted struct {
	digest string
	last   int64
}

// partial gives a client of containerd's the abilities of transport.
func partial(c *http.Client) error {
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	if _, ok := next.(transport); !ok {
		c.Transport = transport{next}
	}
	return nil
}

// partialHosts is partial for hosts that are others' as well: their clients stay as they are.
func partialHosts(from docker.RegistryHosts) docker.RegistryHosts {
	return func(domain string) ([]docker.RegistryHost, error) {
		hosts, err := from(domain)
		hosts = slices.Clone(hosts)
		for i := range hosts {
			c := http.Client{}
			if hosts[i].Client != nil {
				c = *hosts[i].Client
			}
			if err := partial(&c); err != nil {
				return nil, err
			}
			hosts[i].Client = &c
		}
		return hosts, err
	}
}

// transport asks for parts of blobs, and does what a registry that is busy asks for.
type transport struct{ next http.RoundTripper }

// Bounds of what Retry-After may ask for.
const (
	maxWaits = 3
	maxWait  = 30 * time.Second
)

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	for n := 0; ; n++ {
		resp, err := t.once(req)
		if err != nil || n == maxWaits || req.Body != nil && req.Body != http.NoBody ||
			resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
			return resp, err
		}
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		wait := time.Duration(seconds) * time.Second
		if err != nil || seconds < 0 || wait > maxWait {
			return resp, nil // it is not said, or too long: for the caller to judge
		}
		resp.Body.Close()
		select {
		case <-req.Context().Done():
			return nil, req.Context().Err()
		case <-time.After(wait):
		}
	}
}

func (t transport) once(req *http.Request) (*http.Response, error) {
	want, ok := req.Context().Value(rangeKey{}).(wanted)
	has := req.Header.Get("Range")
	// A token's request has the same context; a redirect has another path.
	if !ok || req.Method != http.MethodGet ||
		!strings.Contains(req.URL.Path, want.digest) && has == "" && req.Response == nil {
		return t.next.RoundTrip(req)
	}
	first := int64(0)
	if from, ok := strings.CutPrefix(has, "bytes="); ok {
		from, _, _ = strings.Cut(from, "-")
		var err error
		if first, err = strconv.ParseInt(from, 10, 64); err != nil {
			return nil, fmt.Errorf("range %q: %w", has, err)
		}
	}
	req = req.Clone(req.Context())
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, want.last))
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	n := want.last - first + 1
	answer := resp.Header.Get("Content-Range")
	switch {
	case resp.StatusCode == http.StatusOK,
		resp.StatusCode == http.StatusRequestedRangeNotSatisfiable,
		resp.StatusCode == http.StatusPartialContent &&
			(!strings.HasPrefix(answer, fmt.Sprintf("bytes %d-%d/", first, want.last)) ||
				resp.ContentLength >= 0 && resp.ContentLength != n || resp.Header.Get("Content-Encoding") != ""):
		resp.Body.Close()
		return nil, fmt.Errorf("%w: asked for bytes %d-%d, answer %s, %q, %d bytes",
			ErrNoRanges, first, want.last, resp.Status, answer, resp.ContentLength)
	}
	return resp, nil
}
