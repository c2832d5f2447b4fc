package gone_test

const fewFiles = "X_FEW"

func runOutOfFiles(string) {}
