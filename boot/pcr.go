package boot

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/pcr"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// ErrNoPCRKey says that another UKI would need signatures of its own for the TPM.
var ErrNoPCRKey = errors.New("the image's UKI has signatures for what a TPM measures of it, and without the key " +
	"they are not made for another one: build the image with the Kairos frontend and --secret id=" +
	layout.PCRSecret + ",src=…/pcr.key")

// unseals are the roles that unlock what is encrypted by the TPM: a live medium does not.
var unseals = []string{layout.RoleSystem, layout.RoleRecovery}

// readPCRKey reads the public key in [layout.ImagePCRKey]; nil where the image has none.
func (t tree) readPCRKey() (*rsa.PublicKey, error) {
	b, err := t.readFile(layout.ImagePCRKey, pcr.MaxKeySize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := pcr.ParsePublic(b)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImagePCRKey, err)
	}
	return key, nil
}

// measured returns the sections of a UKI with those that a TPM unseals by, where the image has a public key for that:
// the key, and signatures for what PCR 11 holds when the UKI was started as it is, without a profile, in the roles
// that unlock. Without the private key they are those that the image's UKI has, if they fit, and else the error is
// [ErrNoPCRKey].
func (in *inputs) measured(t tree, sections []uki.Section, private []byte) ([]uki.Section, error) {
	key := in.pcrKey
	if key == nil {
		if private != nil {
			return nil, fmt.Errorf("secret %s: the image has no public key of that: copy it to /%s", layout.PCRSecret,
				layout.ImagePCRKey)
		}
		return sections, nil
	}
	end := slices.IndexFunc(sections, func(s uki.Section) bool { return s.Name == uki.Profile })
	with := func(s uki.Section) {
		sections, end = slices.Insert(sections, end, s), end+1
	}
	with(uki.Section{Name: uki.PCRKey, Data: pcr.MarshalPublic(key)})
	stub, err := uki.Sections(in.stub)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageStub, err)
	}
	started, err := pcr.Started(slices.Concat(stub, sections), 0)
	if err != nil {
		return nil, err
	}
	var values []pcr.Value
	for _, role := range unseals {
		values = append(values, started.Extend([]byte(layout.PCRWord(role))))
	}
	var list []pcr.Signature
	if private != nil {
		list, err = signPolicies(private, key, values)
	} else {
		list, err = t.signatures(key, values)
	}
	if err != nil {
		return nil, err
	}
	with(uki.Section{Name: uki.PCRSignatures, Data: pcr.Marshal(list)})
	return sections, nil
}

func signPolicies(private []byte, public *rsa.PublicKey, values []pcr.Value) ([]pcr.Signature, error) {
	key, err := secureboot.ParseKey(private)
	if err == nil && !key.PublicKey.Equal(public) {
		err = fmt.Errorf("the private key is not the one of /%s", layout.ImagePCRKey)
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", layout.PCRSecret, err)
	}
	return pcr.Sign(key, values...)
}

// signatures are those that the image's UKI has for these values.
func (t tree) signatures(key *rsa.PublicKey, values []pcr.Value) (list []pcr.Signature, err error) {
	program, err := t.readFile(layout.ImageUKI, maxBootFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoPCRKey
	}
	if err != nil {
		return nil, err
	}
	b, err := uki.ReadSection(bytes.NewReader(program), uki.PCRSignatures, pcr.MaxSignatures)
	if err != nil {
		return nil, ErrNoPCRKey
	}
	have, err := pcr.Parse(b)
	if err != nil {
		return nil, ErrNoPCRKey
	}
	for _, v := range values {
		policy := v.Policy()
		sum := sha256.Sum256(policy[:])
		i := slices.IndexFunc(have, func(s pcr.Signature) bool {
			return s.Policy == policy && s.Key == pcr.Fingerprint(key) &&
				rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], s.Signature) == nil
		})
		if i < 0 {
			return nil, ErrNoPCRKey
		}
		list = append(list, have[i])
	}
	return list, nil
}

// checkPCRKey says whether the image's boot layer, and what it trusts, go together with a key for the TPM.
func (in *inputs) checkPCRKey() error {
	if in.pcrKey == nil {
		return nil
	}
	if in.trust == nil {
		// The TPM measures the UKI, which would start whatever layers a stranger has put on the disk.
		return fmt.Errorf("/%s is there, and /%s has no key: the TPM would unlock for each release that somebody "+
			"puts on the disk: have releases signed, or remove the file", layout.ImagePCRKey, layout.ImageTrustDir)
	}
	if !bytes.Contains(in.init, []byte(layout.InitrdPCRSignatures)) {
		return fmt.Errorf("/%s is there, and the image's boot layer is of a version that does not tell the TPM what "+
			"it starts: build its base image again with this version", layout.ImagePCRKey)
	}
	return nil
}
