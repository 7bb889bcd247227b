package fat

// Mounted changes a volume that is mounted: for the moment of each change it is not.
type Mounted struct{ Mount Mount }

// Mount is where a volume is mounted.
type Mount interface {
	// OnDevice unmounts the volume, lets do change what it is on, fsyncs that and mounts it again.
	OnDevice(do func(Disk) error) error
	// Busy says whether the volume is mounted elsewhere. It is asked by do alone.
	Busy() bool
}

func (m Mounted) edit(do func(*Volume) error) error {
	return m.Mount.OnDevice(func(d Disk) error {
		v, err := Open(d)
		if err != nil {
			return err
		}
		return do(v)
	})
}

// Rename is [Volume.Rename].
func (m Mounted) Rename(dir, from, to string) error {
	return m.edit(func(v *Volume) error { return v.Rename(dir, from, to) })
}

// Exchange is [Volume.Exchange].
func (m Mounted) Exchange(dir, temp, final string) error {
	return m.edit(func(v *Volume) error { return v.Exchange(dir, temp, final) })
}

// Remove is [Volume.Remove].
func (m Mounted) Remove(dir, name string) error {
	return m.edit(func(v *Volume) error { return v.Remove(dir, name) })
}

// Reclaim is [Volume.Reclaim], and does nothing where the volume is mounted elsewhere: a file that is being written
// there may have no name yet.
func (m Mounted) Reclaim() error {
	return m.edit(func(v *Volume) error {
		if m.Mount.Busy() {
			return nil
		}
		_, err := v.Reclaim()
		return err
	})
}
