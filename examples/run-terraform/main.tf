# Two steps that take a while and leave a file each. The built-in provider does, so nothing is downloaded.
terraform {
  required_version = ">= 1.4"
}

variable "site" {
  description = "The folder that is deployed to."
  type        = string
}

variable "release" {
  type    = string
  default = "1"
}

resource "terraform_data" "first" {
  input            = "${var.site}/first"
  triggers_replace = [var.release]
  provisioner "local-exec" {
    command = "echo ${var.release} > ${self.input}"
  }
}

resource "terraform_data" "second" {
  depends_on       = [terraform_data.first]
  input            = "${var.site}/second"
  triggers_replace = [var.release]
  # Stands for what takes long: it waits until the file `gate` is not locked.
  provisioner "local-exec" {
    command = "touch ${var.site}/applying; flock --shared ${var.site}/gate true; echo ${var.release} > ${self.input}"
  }
}
