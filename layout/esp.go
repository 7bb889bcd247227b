package layout

import "fmt"

// EFIDefaultPath returns the path on an EFI system partition of the program that firmware
// starts without a boot entry (UEFI specification 2.10, section 3.5.1.1), for an architecture
// in OCI's words.
func EFIDefaultPath(arch string) (string, error) {
	name, ok := map[string]string{"amd64": "BOOTX64.EFI", "arm64": "BOOTAA64.EFI"}[arch]
	if !ok {
		return "", fmt.Errorf("architecture %q: Kairos boots amd64 and arm64", arch)
	}
	return "EFI/BOOT/" + name, nil
}
