package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/log"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/durable/powercut"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/fattest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("fatal")
	if _, err := os.Stat("/dev/shm"); err == nil {
		os.Setenv("TMPDIR", "/dev/shm") // thousands of fsyncs: what they mean, the recorder knows
	}
	os.Exit(m.Run())
}

// operation is a command whose every step is cut.
type operation struct {
	name string
	// prepare brings an installed machine to where the command begins; it returns the id of the
	// release that runs then.
	prepare func(m *Machine) (booted string, err error)
	do      func(ctx context.Context, m *Machine) error
	// after are the releases that boot when the command was done, in their order.
	after []string
	// hurt names the entries that are damaged before the command. Others boot at each step.
	hurt func(layout.Entry) bool
}

// TestPowerCutAtEachStep enumerates the steps of the commands from the code, and at each one
// all that a disk may hold when the power goes. From each such disk a complete release must
// boot, and the same command must succeed. The ESP is a FAT volume, of which any sectors that were written since the
// last fsync may be there, and names on it are changed by what nodes run.
func TestPowerCutAtEachStep(t *testing.T) {
	a, b, c := threeImages(t)
	upgrade := func(to testImage) func(context.Context, *Machine) error {
		return func(ctx context.Context, m *Machine) error {
			_, err := m.Upgrade(ctx, UpgradeOptions{Source: to.source()})
			return err
		}
	}
	toB := func(m *Machine) (string, error) {
		if err := upgrade(b)(t.Context(), m); err != nil {
			return "", err
		}
		return b.id, nil
	}
	failedB := func(m *Machine) (string, error) {
		_, err := toB(m)
		useUp(t, m, b.id)
		return a.id, err
	}
	nothing := func(*Machine) (string, error) { return a.id, nil }
	_, besideB, _ := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	key := newKey(t)
	anchor := anchorOf(key)
	_, signedB, artifact := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	signs(t, signedB, artifact, key)
	operations := []operation{
		{"first upgrade", nothing, upgrade(b), []string{b.id, a.id}, nil},
		{"upgrade to a published release", nothing, func(ctx context.Context, m *Machine) error {
			r, err := m.Upgrade(ctx, UpgradeOptions{Source: besideB})
			if err == nil && r.Written == 0 && r.Changed && !m.complete(m.State, b.id) {
				err = errors.New("its blobs were not fetched")
			}
			return err
		}, []string{b.id, a.id}, nil},
		{"upgrade to a signed release", nothing, func(ctx context.Context, m *Machine) error {
			seal(t, m, anchor)
			signed := func(when string) error {
				r, err := m.State.Release(b.id)
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err == nil {
					_, err = anchor.Check(r, runtime.GOARCH)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", when, err)
				}
				return nil
			}
			if err := signed("its record came before its signatures"); err != nil {
				return err
			}
			if _, err := m.Upgrade(ctx, UpgradeOptions{Source: signedB}); err != nil {
				return err
			}
			return signed("after the upgrade")
		}, []string{b.id, a.id}, nil},
		{"upgrade after one that failed", failedB, upgrade(c), []string{c.id, a.id}, nil},
		{"upgrade of recovery", nothing, func(ctx context.Context, m *Machine) error {
			_, err := m.Upgrade(ctx, UpgradeOptions{Source: c.source(), Recovery: true})
			return err
		}, []string{a.id}, nil},
		{
			"bless",
			toB,
			func(ctx context.Context, m *Machine) error { _, err := bless(ctx, m); return err },
			[]string{b.id, a.id},
			nil,
		},
		{
			"bless, with another boot loader",
			func(m *Machine) (string, error) { return c.id, upgrade(c)(t.Context(), m) },
			func(ctx context.Context, m *Machine) error { _, err := bless(ctx, m); return err },
			[]string{c.id, a.id},
			nil,
		},
		{"upgrade while the last one is on trial", toB, upgrade(c), []string{c.id, b.id, a.id}, nil},
		{"report of a release on trial that fails", toB, func(_ context.Context, m *Machine) error {
			_, err := m.Bless(Verdict{Err: &UnhealthyError{Reason: "no disk"}})
			var unhealthy *UnhealthyError
			if errors.As(err, &unhealthy) && !errors.Is(err, powercut.ErrCut) {
				return nil
			}
			return err
		}, []string{b.id, a.id}, nil},
		{"verify --repair", func(m *Machine) (string, error) { return a.id, rotState(t, m, a.id) },
			func(ctx context.Context, m *Machine) error {
				v, err := m.Verify(ctx, VerifyOptions{Repair: true})
				if err != nil {
					return fmt.Errorf("%w: %+v", err, v.Damage)
				}
				return nil
			}, []string{a.id}, func(e layout.Entry) bool { return e.Seq != layout.RecoverySeq }},
		{"upgrade that shares a rotten layer", func(m *Machine) (string, error) {
			r, err := m.State.Release(a.id)
			if err == nil {
				rot(t, m.State.BlobPath(r.Layers[0].DiffID))
			}
			return a.id, err
		}, upgrade(b), []string{b.id, a.id}, func(e layout.Entry) bool { return e.ID == a.id }},
		{"arming the tries again", func(m *Machine) (string, error) { use(t, m, a.id, 2); return a.id, nil },
			func(ctx context.Context, m *Machine) error { _, err := bless(ctx, m); return err }, []string{a.id}, nil},
		{"rollback", func(m *Machine) (string, error) {
			if _, err := toB(m); err != nil {
				return "", err
			}
			return b.id, m.ESP.Bless(b.id)
		}, func(ctx context.Context, m *Machine) error { _, err := m.Rollback(ctx, a.id, nil); return err },
			[]string{a.id, b.id}, nil},
		{"rollback to the failed one", failedB, func(ctx context.Context, m *Machine) error {
			_, err := m.Rollback(ctx, b.id, nil)
			return err
		}, []string{b.id, a.id}, nil},
		{"gc", func(m *Machine) (string, error) {
			// A release without entry, and what was interrupted.
			img, err := source.Open(t.Context(), c.source(), source.Options{})
			if err != nil {
				return "", err
			}
			if _, err := m.stage(t.Context(), nil, m.State, img, 0, nil); err != nil {
				return "", err
			}
			dir := filepath.Join(m.ESP.Dir, layout.UKIDir)
			return a.id, errors.Join(
				os.WriteFile(
					filepath.Join(dir, strings.TrimSuffix(layout.OnTrial(9, c.id).String(), ".efi")+".tmp"),
					[]byte("half"),
					0o644,
				),
				os.WriteFile(filepath.Join(dir, "KAIROS~2.EFI"), []byte("half of its name"), 0o644),
			)
		}, func(ctx context.Context, m *Machine) error {
			if _, err := m.GC(ctx, nil); err != nil {
				return err
			}
			if left, _ := filepath.Glob(filepath.Join(m.ESP.Dir, layout.UKIDir, "[kK]*")); len(left) != 2 {
				return fmt.Errorf("beside release and recovery there is still something: %s", left)
			}
			return nil
		}, []string{a.id}, nil},
		{"installation onto partitions that are kept", nothing, func(ctx context.Context, m *Machine) error {
			medium, release, err := liveMedium(t, b)
			if err != nil {
				return err
			}
			forced := config.Parse("config.yaml", []byte("install: {no-format: true, force: true}"))
			return m.adopt(ctx, medium, release, InstallOptions{Config: config.Merge(forced)})
		}, []string{b.id, a.id}, nil},
	}
	operations = append(operations, trialOperations(t, a, b, c)...)
	for _, firmware := range []string{"uefi", "bios"} {
		for _, op := range operations {
			t.Run(firmware+"/"+op.name, func(t *testing.T) {
				t.Parallel()
				op.cut(t, firmware, a)
			})
		}
	}
}

// rotState damages a layer and the UKI of a release on STATE. (Its kernel for BIOS is recovery's as well.)
func rotState(t testing.TB, m *Machine, id string) error {
	r, err := m.State.Release(id)
	if err != nil {
		return err
	}
	ukis, err := filepath.Glob(filepath.Join(m.ESP.Dir, layout.UKIDir, "kairos-*1-"+id+"*"))
	if err != nil || len(ukis) != 1 {
		return fmt.Errorf("UKIs: %q, %w", ukis, err)
	}
	rot(t, ukis[0])
	rot(t, m.State.BlobPath(r.Layers[1].DiffID))
	return nil
}

// liveMedium is a store as it is on a live medium.
func liveMedium(t testing.TB, img testImage) (*store.Store, layout.Release, error) {
	s := store.New(t.TempDir())
	i, err := source.Open(t.Context(), img.source(), source.Options{})
	if err != nil {
		return nil, layout.Release{}, err
	}
	layers, err := (&Machine{freeBytes: store.Free}).stageLayers(t.Context(), s, i, 0, nil)
	if err != nil {
		return nil, layout.Release{}, err
	}
	r := i.Release(layers)
	return s, r, s.AddRelease(r)
}

// espSize is about the smallest that gives FAT16.
const espSize = 2304 << 10

// onVolume gives a machine an ESP on a FAT volume that is shown in its folder.
func onVolume(m *Machine, disk string, v *fattest.Cuts) {
	m.ESP = newESP(v.Dir, m.Boot.Firmware, m.FS, v.Names(), efivars.Dir(filepath.Join(disk, "efivars")))
}

func (op operation) cut(t *testing.T, firmware string, first testImage) {
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, firmware, cache, first)
	booted, err := op.prepare(m)
	if err != nil {
		t.Fatal(err)
	}
	esp := fattest.MakeCuts(t, filepath.Join(disk, espDir), espSize,
		filetree.Bytes(layout.UKIReadme, []byte(layout.UKIReadmeText)))
	before, err := powercut.Read(disk)
	if err != nil {
		t.Fatal(err)
	}
	volume := esp.Volume()
	rec, err := powercut.New(disk)
	if err != nil {
		t.Fatal(err)
	}
	judged := map[[32]byte]bool{}
	scratch := t.TempDir()
	rec.Cut = func(n int, step durable.Step, states []powercut.State) error {
		for e, volume := range esp.Left() {
			for k, s := range states {
				sum := sha256.Sum256(volume)
				s[espDir+"/volume"] = powercut.File{Data: sum[:]}
				key := s.Sum()
				delete(s, espDir+"/volume")
				if judged[key] {
					continue
				}
				judged[key] = true
				if testing.Short() && len(judged)%3 != 1 {
					continue // what is judged is the same code each time
				}
				where := filepath.Join(scratch, fmt.Sprintf("%d-%d-%d", n, k, e))
				if err := s.Write(where); err != nil {
					return err
				}
				if err := op.judge(t, where, volume, firmware, booted); err != nil {
					return fmt.Errorf("power cut before step %d (%s), state %d, volume %d: %w", n, step, k, e, err)
				}
				if err := os.RemoveAll(where); err != nil {
					return err
				}
			}
		}
		return nil
	}
	run := fakeMachine(t, disk, firmware, booted, cache, &durable.FS{Before: func(s durable.Step) error {
		here, err := esp.Before(s)
		if here {
			s = durable.Step{Kind: s.Kind, Path: filepath.Dir(disk) + "/" + filepath.Base(s.Path)} // no file of rec's
		}
		return errors.Join(err, rec.Before(s))
	}})
	onVolume(run, disk, esp)
	if err := op.do(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if _, err := esp.Before(durable.Step{}); err != nil {
		t.Fatal(err)
	}
	if err := rec.Finish(); err != nil {
		t.Fatal(err)
	}
	if rec.Steps() < 3 {
		t.Errorf("%d steps only: are they recorded?", rec.Steps())
	}
	esp.Check()
	t.Logf("%d steps, %d different disks", rec.Steps(), len(judged))
	op.killed(t, before, volume, firmware, booted, cache, rec.Steps())
}

// judge says whether a disk boots, and whether the command then succeeds on it.
func (op operation) judge(t *testing.T, disk string, volume []byte, firmware, booted string) error {
	esp := fattest.LoadCuts(t, filepath.Join(disk, espDir), volume)
	order, err := bootableBut(disk, firmware, op.hurt)
	if err != nil {
		return err
	}
	least := 2 // a release and the recovery system
	if op.hurt != nil {
		least = 1
	}
	if len(order) < least {
		return fmt.Errorf("boots only %v", order)
	}
	m := fakeMachine(t, disk, firmware, booted, t.TempDir(), nil)
	onVolume(m, disk, esp)
	if err := op.do(t.Context(), m); err != nil {
		return fmt.Errorf("the same command again: %w", err)
	}
	if order, err = bootable(disk, firmware); err != nil {
		return fmt.Errorf("after the same command: %w", err)
	}
	for i, id := range op.after {
		if i >= len(order) || order[i].ID != id {
			return fmt.Errorf("after the same command: boots %v, want %v", order, op.after)
		}
	}
	noLeftovers(t, disk)
	return nil
}

// killed ends the command at each step, and continues on what is there.
func (op operation) killed(
	t *testing.T, before powercut.State, volume []byte, firmware, booted, cache string, steps int,
) {
	each := 7
	if steps < 30 { // such as those of a blessing
		each = 1
	}
	for k := 1; k < steps; k += each {
		disk := filepath.Join(t.TempDir(), fmt.Sprint(k))
		if err := before.Write(disk); err != nil {
			t.Fatal(err)
		}
		n := 0
		d := &durable.FS{Before: func(durable.Step) error {
			if n++; n >= k {
				return powercut.ErrCut
			}
			return nil
		}}
		esp := fattest.LoadCuts(t, filepath.Join(disk, espDir), volume)
		m := fakeMachine(t, disk, firmware, booted, cache, d)
		onVolume(m, disk, esp)
		err := op.do(t.Context(), m)
		// A repair says of each object what went wrong, and goes on.
		if repairs := op.hurt != nil && err != nil; !repairs && !errors.Is(err, powercut.ErrCut) {
			t.Fatalf("killed at step %d: %v", k, err)
		}
		if err := op.judge(t, disk, esp.Volume(), firmware, booted); err != nil {
			t.Fatalf("killed at step %d: %v", k, err)
		}
	}
}
